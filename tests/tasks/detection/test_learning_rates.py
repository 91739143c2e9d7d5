"""A backbone that starts from weights learns slower than the new layers on it, one from scratch as fast."""

from pathlib import Path

import pytest

from tasks.detection.task import DetectionTask
from tasks.engine.config import load_config
from tests.backbones.test_weights import keras_file


@pytest.mark.parametrize(
    ("weights", "override", "share"),
    [
        (True, (), 0.1),
        (False, (), 1.0),
        (True, ("trainer.backbone_lr_scale=0.5",), 0.5),
        (False, ("trainer.backbone_lr_scale=0.5",), 0.5),
    ],
)
def test_the_backbones_learning_rate(weights: bool, override: tuple[str, ...], share: float, tmp_path: Path) -> None:
    start = (f"backbone.weights={keras_file(tmp_path / 'keras.h5', 0.25)}",) if weights else ()
    config = load_config(["task=detection", "detector=pan", "backbone.alpha=0.25", *start, *override], "config")
    module = DetectionTask(config, ["a", "b"])
    backbone = set(module.model.backbone.parameters())
    for group in module.parameter_groups():
        for parameter in group["params"]:
            assert group["lr"] == pytest.approx(0.004 * (share if parameter in backbone else 1))
