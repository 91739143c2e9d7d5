"""python -m tests.benchmarks.export_matrix <folder> [--weights <.h5>]: every task in each runtime's format, with costs.

Trains a network of each task on drawn data into <folder>/runs (existing ones are kept), exports each, float and int8,
measures the files with two threads, and prints the matrix of docs/export.md. Each command runs in its own process.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tasks.export.package import read_spec
from tasks.export.speed import Contender, measure
from tests.benchmarks.timing import machine

DETECTION = ("task=detection", "data.val=250", "backbone.alpha=0.25")
RUNS = {
    "classification": ("task=classification", "data=demo_dogs", "backbone.alpha=0.25", "trainer.max_epochs=16"),
    "dogs": ("task=dogs", "backbone.alpha=0.25", "task.resolution=160", "trainer.max_epochs=16"),
    "SSD": (*DETECTION, "trainer.max_epochs=16"),
    "SSD-FPN": (
        *DETECTION,
        "detector=ssd_fpn",
        "task.resolution=320",
        "detector.channels=64",
        "detector.head_layers=2",
    ),
    "Faster R-CNN": (*DETECTION, "detector=faster_rcnn", "detector.proposals=100", "trainer.max_epochs=6"),
    "PAN": (*DETECTION, "detector=pan"),
    "faces": ("task=faces", "backbone.alpha=0.5", "trainer.max_epochs=30"),
    "embedding": ("task=embedding", "backbone.alpha=0.5", "trainer.max_epochs=30"),
    "geo": ("experiment=earth",),
}
KINDS = [(form, quantize) for form in ("onnx", "litert", "executorch") for quantize in ("none", "int8")]


def command(name: str, *arguments: str, threads: int = 2) -> str:
    """Runs a command; the last line of its errors if it fails, else nothing."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"tasks.{name}", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stderr.strip().splitlines()[-1] if result.returncode else ""


def train(name: str, root: Path, weights: str | None) -> Path:
    """The run folder of a network, which is trained if there is none."""
    run = root / "runs" / name
    if not (run / "checkpoints" / "best.ckpt").exists():
        where = [f"paths.runs={root / 'made'}", f"paths.data={root / 'data'}", f"name={name.replace(' ', '_')}"]
        start = [f"backbone.weights={weights}"] if weights and "backbone.alpha=0.25" in RUNS[name] else []
        if error := command("run", *RUNS[name], *start, *where, "trainer.progress_bar=false"):
            raise SystemExit(f"{name}: {error}")
        (made,) = (root / "made").glob(f"*/{name.replace(' ', '_')}")
        run.parent.mkdir(parents=True, exist_ok=True)
        made.rename(run)
    return run


def export(run: Path, form: str, quantize: str, folder: Path) -> str:
    """The error, if there is one."""
    settings = (f"ckpt={run}", f"format={form}", f"quantize={quantize}", f"output={folder}", "overwrite=true")
    return command("export", *settings, threads=1)


def row(form: str, quantize: str, folder: Path, error: str, seconds: float) -> str:
    made = list(folder.glob(f"*-{form}"))
    if not made:
        return f"{form} | {quantize} | {error} |"
    facts = read_spec(made[0])
    fast = measure(Contender(form, str(made[0]), form), threads=2, seconds=seconds)
    metrics = facts["metrics"]
    values = " | ".join(f"{metrics[when][metrics['primary']]:.3f}" for when in ("before", "after"))
    size = f"{fast.file_mb:.2f} | {fast.median_ms:.2f}"
    return f"{form} | {quantize} | {size} | {metrics['primary']} | {values} |{error and ' ' + error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", help="of ImageNet for alpha 0.25; random ones where not given")
    parser.add_argument("--only", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    arguments = parser.parse_args()
    runs = {name: train(name, arguments.folder, arguments.weights) for name in arguments.only}
    wanted = [(name, form, quantize) for name in runs for form, quantize in KINDS]
    folders = [arguments.folder / "exports" / name / quantize for name, _, quantize in wanted]
    with ThreadPoolExecutor(2) as pool:
        jobs = [(runs[name], form, quantize, to) for (name, form, quantize), to in zip(wanted, folders, strict=True)]
        errors = list(pool.map(lambda job: export(*job), jobs))
    print(machine())
    print("| | format | quantize | MB | ms | metric | checkpoint | file |\n|---|---|---|---|---|---|---|---|")
    for (name, form, quantize), folder, error in zip(wanted, folders, errors, strict=True):
        print(f"| {name} | {row(form, quantize, folder, error, arguments.seconds)}", flush=True)


if __name__ == "__main__":
    main()
