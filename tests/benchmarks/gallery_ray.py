"""python -m tests.benchmarks.gallery_ray: a gallery by two Ray workers, one of which is killed, and by one process.

Prints the seconds of each, and whether the files are equal to the last bit. It needs the extra `ray`.
Photos are of the generated Earth, 96 px; the model of alpha 0.25 is trained for 20 steps.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.timing import machine
from tests.conftest import ROOT, kill_ray_worker, wait_until
from tests.tasks.gallery.conftest import contents

MODEL = ("backbone.alpha=0.25", "backbone.pretrained=false", "task.resolution=96", "trainer.steps=20")
BUILD = ("tasks.gallery", "ckpt=runs/geo/run", "mode=build", "shard_size=512")


def command(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """A command of the suite with one thread, as Ray gives each task one processor."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OF_TEST": str(folder)}
    return subprocess.Popen([sys.executable, "-m", *words], cwd=folder, env=environment)


def finish(process: subprocess.Popen[bytes]) -> None:
    assert process.wait() == 0, process.args


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=20_000)
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as place:
        folder, took = Path(place), {}
        data = ["data=demo_earth", "data.root=earth", "data.generated=true", f"data.gallery={count}"]
        data += ["data.train=800", "data.val=100", "data.max_photos=[30,10,5]"]
        finish(command(folder, "tasks.run", "task=geo", *data, *MODEL, "paths.runs=runs", "name=run"))
        for name, more in {"one": (), "ray": ("ray=local", "of=20")}.items():
            start = time.monotonic()
            built = command(folder, *BUILD, f"folder={name}", *more)
            if more:
                wait_until(lambda: list(folder.glob("ray/embeddings/0/*.npy")), built)
                wait_until(lambda: kill_ray_worker(b"ray::embed_part", place), built)
            finish(built)
            took[name] = time.monotonic() - start
        same = contents(folder / "one") == contents(folder / "ray")
    print(
        f"{machine()}; {count} photos: {took['one']:.0f} s by one process, {took['ray']:.0f} s by two workers of which "
        f"one was killed, Ray's start included; equal to the last bit: {same}"
    )


if __name__ == "__main__":
    main()
