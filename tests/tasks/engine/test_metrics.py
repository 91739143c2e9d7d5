"""Outputs that are not finite, as those of a training that diverged, in the metrics."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning import Trainer
from torch import nn

from backbones.errors import UserError
from data.base import SuiteData
from data.classification import ClassificationBatch
from data.detection import DetectionBatch
from data.geo.places import GeoBatch
from tasks.engine.callbacks import RunReport
from tasks.engine.config import load_config
from tasks.engine.options import locate

SMALL = ("backbone.alpha=0.25", "backbone.variant=shallow", "backbone.pretrained=false", "task.resolution=32")
SIZES, ROWS = torch.full((2, 2), 32), [0, 1]


@pytest.mark.parametrize("task", ["classification", "faces", "embedding", "geo", "detection"])
def test_outputs_that_are_not_finite_cannot_be_measured(task: str) -> None:
    config = load_config([f"task={task}", *SMALL])
    module: Any = locate(config, "task")(config, ["a", "b"]).eval()
    module.device = torch.device("cpu")  # as a Trainer gives it
    module.build_metrics()
    layer = module.model.class_layers()[-1] if task == "detection" else module.model.head
    nn.init.constant_(layer.bias, math.nan)
    images, labels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1])
    if task == "geo":
        batch: Any = GeoBatch(images, SIZES, [], torch.zeros(2, 2), labels[:, None], torch.tensor(ROWS))
    elif task == "detection":
        module.trainer = SimpleNamespace(world_size=1)
        batch = DetectionBatch(images, SIZES, [], torch.zeros(2, 1, 4), labels[:, None], ROWS)
    else:
        batch = ClassificationBatch(images, SIZES, [], torch.eye(2) if task == "faces" else labels, ["a", "b"], ROWS)
    with torch.no_grad():
        module.update_metrics(batch)
    with pytest.raises(UserError, match="outputs are not finite; lower"):
        module.compute_metrics("val")


@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_metric_that_is_not_a_number_is_not_the_best(mode: str, tmp_path: Path) -> None:
    report, trainer = RunReport(tmp_path, {}), Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    cast(Any, trainer).datamodule = SuiteData(str(tmp_path))
    config = load_config(["task=classification", *SMALL])
    module: Any = locate(config, "task")(config, ["a", "b"])
    module.mode, best = mode, []
    for value in (math.nan, 0.5, math.nan, 0.6, 0.4, math.nan):
        module.last_metrics = {"primary": value}
        report.on_validation_end(trainer, module)
        best.append(json.loads((tmp_path / "metrics.json").read_text())["metrics"].get("primary"))
    last = [0.6, 0.6, 0.6] if mode == "max" else [0.5, 0.4, 0.4]
    assert best == [None, 0.5, 0.5, *last]
