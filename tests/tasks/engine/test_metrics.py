"""Outputs that are not finite, as those of a training that diverged, in the metrics."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from backbones.errors import UserError
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
def test_a_metric_that_is_not_a_number_is_not_the_best(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, best = RunReport(tmp_path, {}), []
    monkeypatch.setattr(report, "write", lambda trainer, state, metrics: best.append(metrics.get("primary")))
    progress = SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=1)))
    trainer: Any = SimpleNamespace(
        sanity_checking=False,
        current_epoch=0,
        num_training_batches=1,
        fit_loop=SimpleNamespace(epoch_loop=progress),
        progress_bar_callback=report,
    )
    config = load_config(["task=classification", *SMALL])
    module: Any = locate(config, "task")(config, ["a", "b"])
    module.mode = mode
    for value in (math.nan, 0.5, math.nan, 0.6, 0.4, math.nan):
        module.last_metrics = {"primary": value}
        report.on_validation_end(trainer, module)
    last = [0.6, 0.6, 0.6] if mode == "max" else [0.5, 0.4, 0.4]
    assert best == [None, 0.5, 0.5, *last]
