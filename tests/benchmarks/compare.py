"""python -m tests.benchmarks.compare [runs]: how long tasks.compare takes over generated run folders."""

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

TASKS = {  # data set, primary metric, classes
    "detection": ("scenes", "ap", [f"thing {i}" for i in range(8)]),
    "dogs": ("demo_dogs", "top1", [f"breed {i}" for i in range(12)]),
    "geo": ("earth", "mean_share", []),
}
ALPHAS, SIDES = (0.25, 0.5, 0.75, 1.0), (128, 160, 192, 224)


def write_run(root: Path, task: str, name: str, seed: int = 0, **more: Any) -> Path:
    """A run folder as training leaves it, with figures that a network of its size might have; `more` goes into
    metrics.json.
    """
    chance = random.Random(f"{task}{name}{seed}")
    data, primary, classes = TASKS[task]
    alpha, side = chance.choice(ALPHAS), chance.choice(SIDES)
    cost = {"madds_m": (540 * alpha**2 + 28 * alpha) * (side / 224) ** 2, "params_m": 3.2 * alpha**2 + 0.3}
    value = 0.1 * math.log2(cost["madds_m"]) - 0.2 + chance.gauss(0, 0.03)
    metrics = {primary: value, f"{primary}50": min(1.0, 1.3 * value)}
    metrics |= {f"{primary}50/{c}": min(1.0, max(0.0, chance.gauss(1.3 * value, 0.1))) for c in classes}
    settings = {
        "name": name,
        "task": {"name": task, "resolution": side},
        "backbone": {"alpha": alpha, "rho": 1.0},
        "data": {"root": data, "batch_size": 64},
        "groups": {"backbone": "mobilenet_v1", "data": data},
    }
    content = {
        **{"state": "finished", "epoch": 12, "step": 900, "seconds": 100.0, "metrics": metrics | {"primary": value}},
        **{"task": task, "primary": primary, "cost": cost, "classes": len(classes), "resolution": side},
        **{"speed": {"latency_ms": cost["madds_m"] / 20, "on": "cpu"}, "changed": {"backbone.alpha": alpha}},
        "settings": settings,
    }
    folder = root / task / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "metrics.json").write_text(json.dumps(content | more))
    return folder


def write_image(folder: Path, size: tuple[int, int] = (1218, 1230)) -> None:
    """A predictions.png as large as those of a validation."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1] // 6, size[0] // 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size).save(folder / "predictions.png")


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="?", type=int, default=1000)
    count = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as place:
        for i in range(count):
            folder = write_run(Path(place), list(TASKS)[i % len(TASKS)], f"run{i}")
            if not i:
                write_image(Path(place))
            (folder / "predictions.png").hardlink_to(Path(place) / "predictions.png")
        command = [sys.executable, "-m", "tasks.compare", f"runs={place}"]
        run = partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)
        times = sorted(seconds(run) for _ in range(3))
        size = (Path(place) / "compare.html").stat().st_size
    print(
        f"{count} runs: {times[1]:.1f} s, median of 3 ({times[0]:.1f} to {times[2]:.1f}); page of {size / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    main()
