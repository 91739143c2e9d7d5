"""python -m tests.benchmarks [<script> ...]: runs benchmarks and writes their dated output to BENCHMARKS.md.

Without names, all scripts that need nothing but this repository run one after the other: some hours, on an otherwise
idle machine. `geo` names one, "startup --rounds 1" one with other arguments. A script's output is put at the end of its
section, in place of its earlier output from the same machine; figures of other machines stay.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from backbones.files import atomic_write
from backbones.processors import processor_name, usable_cores

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = {  # script and arguments: the heading of their section
    "detection --rounds 3": "Detectors against torchvision's",
    "profile task=detection trainer.minutes=5": "Where a run's time goes",
    "contention": "Shared cores",
    "check": "Checking a data set",
    "startup": "What commands cost before they do anything",
    "predict --count 400": "What commands cost before they do anything",
    "multitask": "Several tasks on one backbone",
    "coco_eval": "COCO evaluation",
    "input": "Classification: input and training step",
    "train": "Classification: input and training step",
    "remote": "Shards in an object store",
    "geo": "Geo-localization",
    "geo_retrieval": "Geo-localization",
    "blocks --count 300000 --factory IVF1024,Flat --block-mb 64": "Geo-localization",
    "compare": "Comparing runs",
    "faces_distilled": "Faces: what a teacher is worth",
    "distill": "Faces: what a teacher is worth",
    "export": "Exported files",
}
OTHERS = {  # started by hand: what they need
    "dogs_noisy": "ImageNet weights",
    "export_matrix": "ImageNet weights",
    "finetune": "photographs",
    "gallery_ray": "the extra ray",
    "page": "exports",
}
BLOCK = re.compile(
    r"\n\d{4}-\d\d-\d\d, (?P<machine>[^\n]+?), torch [^\n]+:\n\n```text\n"
    r"\$ python -m tests\.benchmarks\.(?P<script>\w+)[^\n]*\n.*?\n```\n",
    re.S,
)


def machine() -> str:
    """Identifies the machine that figures come from."""
    return f"{usable_cores()} cores of {processor_name()}"


def block(command: str, printed: str, load: float) -> str:
    """A dated block of BENCHMARKS.md: what `python -m tests.benchmarks.<command>` printed here. `load` is the load
    average before the first script, which says whether others used the machine.
    """
    head = f"{time.strftime('%Y-%m-%d')}, {machine()}, torch {version('torch')}, load average {load:.1f} before"
    return f"\n{head}:\n\n```text\n$ python -m tests.benchmarks.{command}\n{printed.strip()}\n```\n"


def updated(text: str, heading: str, new: str) -> str:
    """`text` with the block `new` at the end of the section, without the one that it replaces."""
    start = text.index(f"## {heading}\n")
    end = text.find("\n## ", start)
    end = len(text) if end < 0 else end
    of_new = key(BLOCK.search(new))
    kept = BLOCK.sub(lambda found: "" if key(found) == of_new else found[0], text[start:end])
    return text[:start] + kept.rstrip("\n") + "\n" + new + text[end:]


def key(found: re.Match[str] | None) -> tuple[str, str] | None:
    return (found["machine"], found["script"]) if found else None


def section_of(command: str) -> str:
    """The heading for a script, given with or without arguments. Raises SystemExit if it is not in the list."""
    headings = {listed.split()[0]: heading for listed, heading in SECTIONS.items()}
    script = command.split()[0]
    if script not in headings:
        need = f"{script} needs {OTHERS[script]}: start it by hand" if script in OTHERS else f"no script {script}"
        raise SystemExit(f"{need}; choose from {', '.join(headings)}")
    return headings[script]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scripts", nargs="*", help="which ones; all where none is named")
    parser.add_argument("--into", type=Path, default=ROOT / "BENCHMARKS.md", help="the file whose sections are renewed")
    given = parser.parse_args()
    listed = {command.split()[0]: command for command in SECTIONS}
    commands = {listed.get(command, command): section_of(command) for command in given.scripts} or SECTIONS
    load, failed = os.getloadavg()[0], []
    for command, heading in commands.items():
        print(f"python -m tests.benchmarks.{command}", flush=True)
        script, *arguments = shlex.split(command)
        started = [sys.executable, "-m", f"tests.benchmarks.{script}", *arguments]
        result = subprocess.run(started, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        if result.returncode:
            failed.append(script)
            continue
        text = updated(given.into.read_text(), heading, block(command, result.stdout, load))
        with atomic_write(given.into, "w") as file:
            file.write(text)
    if failed:
        raise SystemExit(f"failed, their figures are as they were: {', '.join(failed)}")


if __name__ == "__main__":
    main()
