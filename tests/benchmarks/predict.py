"""python -m tests.benchmarks.predict: tasks.predict on a folder of photographs, as a share of the network's batch rate.

JPEGs of 500 x 375 (as tests.benchmarks.input makes them, repeated under other names), PAN at 320 px, untrained but with
a threshold that leaves some ten boxes to draw. The network's rate is that of its answers to decoded batches.
Both use all cores, in turns; the command's start-up cancels out in the difference between two folders' times.
"""

import argparse
import contextlib
import io
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from tasks import load
from tasks.engine.config import load_config
from tasks.inference.checkpoint import CheckpointPredictor
from tasks.predict import predict
from tests.benchmarks.input import SIZE, make_images
from tests.benchmarks.timing import machine
from tests.conftest import untrained

FEW = 32  # images of the small folder, whose time is subtracted
DRAWN = 10  # boxes per image


def folder_of(root: Path, source: list[Path], count: int) -> Path:
    folder = root / f"{count}"
    folder.mkdir()
    for i in range(count):
        (folder / f"{i:05}.jpg").hardlink_to(source[i % len(source)])
    return folder


def command_seconds(run: Path, folder: Path, threshold: float, form: str) -> float:
    """Seconds of the command, start-up included."""
    output = folder.with_name(f"{folder.name}-out")
    settings = [f"ckpt={run}", f"input={folder}", f"output={output}", f"threshold={threshold}", f"format={form}"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        start = time.perf_counter()
        predict(load_config(settings, "predict"))
        seconds = time.perf_counter() - start
    shutil.rmtree(output)
    return seconds


def network_seconds(model: CheckpointPredictor, paths: list[Path], batch: int = 16) -> float:
    """Seconds per image in a decoded batch."""
    decoded: Any = [model._decode(i, path) for i, path in enumerate(paths[:batch])]
    views, sizes = [d.view for d in decoded], [d.size for d in decoded]
    model.predict_batch(views, sizes)
    start = time.perf_counter()
    for _ in range(4):
        model.predict_batch(views, sizes)
    return (time.perf_counter() - start) / 4 / batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alpha", type=float, default=1.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_images(root / "source", 85)
        source = sorted((root / "source").rglob("*.jpg"))
        few_scenes = (f"paths.data={root}", "data.train=24", "data.val=8")
        run = untrained(root / "run", "task=detection", f"backbone.alpha={arguments.alpha}", *few_scenes)
        model = load(run, threshold=0.0)
        assert isinstance(model, CheckpointPredictor)
        scores = sorted((s for result in model.predict(source) for s in result.scores), reverse=True)
        threshold = float(scores[min(DRAWN * len(source), len(scores) - 1)])
        many, few = (folder_of(root, source, count) for count in (arguments.count, FEW))
        shares: dict[str, list[float]] = {"jpg": [], "png": []}
        for _ in range(arguments.rounds):
            for form, found in shares.items():
                alone = network_seconds(model, source)
                took = command_seconds(run, many, threshold, form) - command_seconds(run, few, threshold, form)
                found.append(alone * (arguments.count - FEW) / took)
        print(f"{arguments.count} JPEGs of {SIZE[0]} x {SIZE[1]}, alpha {arguments.alpha:g}; {machine()}")
        print(f"the network alone: {1 / alone:.0f} images/s")
        for form, found in shares.items():
            print(
                f"tasks.predict format={form}: {statistics.median(found):.0%} of that rate ({min(found):.0%} at least)"
            )


if __name__ == "__main__":
    main()
