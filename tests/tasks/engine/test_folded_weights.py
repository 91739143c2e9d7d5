"""Runs that start from weights whose normalization is folded."""

from pathlib import Path

import torch

from tasks.run import execute
from tests.conftest import untrained

SETTINGS = (
    *("task=dogs", "data=dogs", "data.web_labels=web_labels.json", "backbone.alpha=0.25", "task.resolution=64"),
    *("data.batch_size=8", "data.workers=0", "trainer.max_epochs=1", "trainer.precision=32", "logger.images=0"),
    "trainer.progress_bar=false",
)
NO_STEP = ("trainer.lr=1e-9", "trainer.bn_momentum=1e-6", "trainer.ema_decay=0")


def state_of(run: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return found


def test_they_are_unfolded_once_and_before_an_average_is_made(dogs: Path, tmp_path: Path) -> None:
    """A frozen backbone is unfolded too, and weights of ckpt= are left as they are."""
    base = [*SETTINGS, f"data.root={dogs}", f"paths.runs={tmp_path}"]
    file = untrained(tmp_path / "new", *base) / "checkpoints" / "best.ckpt"
    content = torch.load(file, weights_only=True)
    torch.manual_seed(0)
    for name, tensor in content["state_dict"].items():
        if name.endswith("norm.bias"):
            tensor.uniform_(-0.5, 1.5)
    folded = tmp_path / "folded.ckpt"
    torch.save(content, folded)

    weights = f"backbone.weights={folded}"
    execute([*base, weights, "name=held", "trainer.freeze_backbone=true"])
    held = state_of(tmp_path / "dogs" / "held")
    means = {name: tensor for name, tensor in held.items() if name.endswith("running_mean")}
    assert all(tensor.any() for tensor in means.values())

    execute([*base, weights, f"ckpt={tmp_path / 'dogs' / 'held'}", "name=next", *NO_STEP])
    found = state_of(tmp_path / "dogs" / "next")
    for name in means:
        torch.testing.assert_close(found[name], held[name], rtol=1e-3, atol=1e-3)
