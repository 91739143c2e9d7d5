"""Two tasks that learn on one backbone what neither could guess."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.run import execute

COLOURS = {"blue": (40, 60, 200), "green": (40, 170, 60), "red": (200, 50, 40)}


def write(root: Path, kind: str, seed: int) -> Path:
    """Noisy images of 32 px: in three colours, or with stripes along, across or none, in random colours."""
    generator = np.random.default_rng(seed)
    stripes = np.where(np.arange(32) // 4 % 2, 60, -60)
    patterns: dict[str, Any] = {"across": stripes[:, None, None], "along": stripes[None, :, None], "plain": 0}
    for split, count in (("train", 16), ("val", 8)):
        for name in COLOURS if kind == "colours" else patterns:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                base = COLOURS[name] if kind == "colours" else generator.integers(60, 190, 3) + patterns[name]
                pixels = np.broadcast_to(base, (32, 32, 3)) + generator.normal(0, 15, (32, 32, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return root


@pytest.mark.parametrize("share", ["all", "depthwise"])
def test_both_tasks_learn(share: str, tmp_path: Path) -> None:
    """Chance level is a third."""
    colours, stripes = write(tmp_path / "colours", "colours", 0), write(tmp_path / "stripes", "stripes", 1)
    tasks = ["multitask.tasks=[classification,dogs]", "classification.data=folders", "dogs.data=folders"]
    tasks += [f"classification.data.root={colours}", f"dogs.data.root={stripes}", f"multitask.share={share}"]
    small = ["backbone.alpha=0.25", "backbone.variant=shallow", "task.resolution=32", "data.batch_size=16"]
    small += ["data.workers=0", "trainer.precision=32", "trainer.steps=180", "trainer.ema_decay=0.9"]
    quiet = ["trainer.lr=0.004", "trainer.progress_bar=false", "logger.images=0", "trainer.validate_every=100"]
    quiet += [f"paths.runs={tmp_path}"]
    metrics = execute(["task=multitask", *tasks, *small, *quiet])["metrics"]
    assert metrics["classification/top1"] >= 0.9
    assert metrics["dogs/top1"] >= 0.9
