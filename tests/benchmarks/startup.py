"""python -m tests.benchmarks.startup: what commands cost before they do anything, in multiples of `import torch`.

Each command runs in a process of its own, all of them in turns, on the smallest possible work: a network's cost, a
prediction by a checkpoint and by an ONNX file, a check of a demo's data, the paper's tables, one training step.
Prints the median processor time, as others may use the machine, and the peak memory.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def measured(arguments: list[str]) -> tuple[float, float]:
    """Processor seconds, and peak memory in MB, of a Python process and its children."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=errors
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{' '.join(arguments)}: {errors.read().decode()[-2000:]}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000


def prepared(folder: Path) -> dict[str, list[str]]:
    """The commands, with the files that they need."""
    from data.demo.scenes import write_scenes
    from tasks.export.__main__ import execute
    from tests.conftest import TINY, untrained

    root, run = folder / "scenes", folder / "run"
    write_scenes(root, train=24, val=8, seed=0)
    untrained(run, *TINY, "task=detection", f"data.root={root}")
    export = execute([f"ckpt={run}", "format=onnx", "max_drop=100", f"root={root}"])
    image, out = next(root.rglob("*.jpg")), f"output={folder / 'out'}"
    once = ("trainer.steps=1", "trainer.limit_train_batches=1", "logger.images=0")
    return {
        "cost": ["tasks.cost", "task=detection"],
        "predict a checkpoint": ["tasks.predict", f"ckpt={run}", f"input={image}", out],
        "predict an ONNX file": ["tasks.predict", f"ckpt={export}", f"input={image}", out],
        "check": ["tasks.check", f"data.root={root}", f"output={folder / 'check.html'}"],
        "paper": ["tasks.paper", f"runs={folder}"],
        "run of one step": [
            "tasks.run",
            "task=detection",
            "data=demo_scenes",
            *TINY,
            *once,
            f"data.root={root}",
            f"paths.runs={folder}",
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.prepare:  # in a process of its own: a child's peak memory includes its parent's at the fork
        from tests.benchmarks.timing import machine

        facts = {"commands": prepared(arguments.prepare), "machine": machine()}
        (arguments.prepare / "facts.json").write_text(json.dumps(facts))
        return
    with tempfile.TemporaryDirectory() as name:
        prepare = [sys.executable, "-m", "tests.benchmarks.startup", "--prepare", name]
        subprocess.run(prepare, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        facts = json.loads((Path(name) / "facts.json").read_text())
        commands = {"import torch": ["-c", "import torch"], "import lightning": ["-c", "import lightning"]}
        commands |= {what: ["-m", *given] for what, given in facts["commands"].items()}
        found: dict[str, list[tuple[float, float]]] = {what: [] for what in commands}
        for _ in range(arguments.rounds):
            for what, given in commands.items():
                found[what].append(measured(given))
    print(f"{facts['machine']}; median of {arguments.rounds}")
    torchs = statistics.median(seconds for seconds, _ in found["import torch"])
    for what, rows in found.items():
        seconds = statistics.median(seconds for seconds, _ in rows)
        memory = max(memory for _, memory in rows)
        print(f"{what:22} {seconds:6.2f} s of processors  {seconds / torchs:5.2f} x torch  {memory:6.0f} MB")


if __name__ == "__main__":
    main()
