"""A task added by a user: one folder, two YAML files, and every command works with it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

MODEL = '''
import torch.nn.functional as F
from torch import Tensor

from tasks.engine.model import ExportSpec, PooledNet


class BrightnessNet(PooledNet):
    """Images (B, 3, H, W) to brightness (B, 1), from 0 to 1."""

    export_spec = ExportSpec({"brightness": "from 0 to 1"})

    def postprocess(self, outputs: Tensor) -> Tensor:
        return outputs.float().sigmoid()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.l1_loss(self.postprocess(outputs), targets)
'''
TASK = """
from typing import Any

from torch import Tensor

from data.base import Batch, Split
from tasks.brightness.model import BrightnessNet
from tasks.engine.task import TaskModule


class BrightnessTask(TaskModule):
    primary = "mae"
    mode = "min"

    def build_metrics(self) -> None:
        from torchmetrics import MeanAbsoluteError

        self.error = MeanAbsoluteError()

    def build_model(self) -> BrightnessNet:
        return BrightnessNet(self.build_backbone(BrightnessNet.strides), 1)

    def targets(self, batch: Batch) -> Tensor:
        return batch.images.float().mean(dim=(1, 2, 3))[:, None] / 255

    def compute_losses(self, batch: Batch) -> dict[str, Tensor]:
        return {"l1": self.model.loss(self.model(self.model.preprocess(batch.images)), self.targets(batch))}

    def update_metrics(self, batch: Batch) -> None:
        self.error.update(self.named_outputs(batch.images)["brightness"], self.targets(batch))

    def compute_metrics(self, split: Split) -> dict[str, float]:
        return {"mae": float(self.error.compute())}

    def reset_metrics(self) -> None:
        self.error.reset()

    def ground_truth(self, batch: Batch) -> list[dict[str, Any]]:
        return [{"brightness": value} for (value,) in self.targets(batch).tolist()]
"""
CONF = """# @package _global_
# How bright an image is.
defaults: [/data: folders, _self_]
task:
  _target_: tasks.brightness.task.BrightnessTask
  name: brightness
  resolution: 64
  allowed:
    resolution: "[32, 2048]"
"""
EXPERIMENT = """# @package _global_
# Measured: no (this is an example).
defaults: [override /task: brightness]
trainer: {max_epochs: 1}
"""
COMMANDS = """
import glob, runpy, sys
from tasks import load
for line in {lines}:
    module, *sys.argv[1:] = line
    runpy.run_module(f"tasks.{{module}}", run_name="__main__", alter_sys=False)
for path in ("runs/brightness/a", *glob.glob("runs/brightness/a/export/*")):
    (result,) = load(path).predict({image!r})
    result.draw().save("drawn.png")
    print("loaded", result.to_dict()["brightness"])
"""


def test_a_new_task_is_one_folder_and_two_yaml_files(dogs: Path, tmp_path: Path) -> None:
    for name in ("backbones", "conf", "data", "tasks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    folder = tmp_path / "tasks/brightness"
    folder.mkdir()
    for name, text in (("__init__", ""), ("model", MODEL), ("task", TASK)):
        (folder / f"{name}.py").write_text(text)
    (tmp_path / "conf/task/brightness.yaml").write_text(CONF)
    (tmp_path / "conf/experiment/brightness.yaml").write_text(EXPERIMENT)

    small = (
        "backbone.alpha=0.25",
        "backbone.variant=shallow",
        "data.batch_size=8",
        "data.workers=0",
        "trainer.precision=32",
    )
    data = ("data=folders", f"data.root={dogs}", "data.train=Images", "data.val=Images")
    image = next(dogs.rglob("*.jpg"))
    lines = [
        ("cost", "task=brightness", "backbone.alpha=0.25"),
        *(("run", "experiment=brightness", *small, *data, f"name={name}", f"seed={i}") for i, name in enumerate("ab")),
        ("predict", "ckpt=runs/brightness/a", f"input={image}", "output=drawn"),
        ("predict", "ckpt=runs/brightness/a", "mode=test"),
        ("export", "ckpt=runs/brightness/a", "format=onnx", "max_drop=100"),
        ("compare", "runs=runs"),
    ]
    result = subprocess.run(
        [sys.executable, "-c", COMMANDS.format(lines=lines, image=str(image))],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "200", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert 0 <= json.loads((tmp_path / "drawn/predictions.jsonl").read_text())["brightness"] <= 1
    loaded = [float(line.split()[1]) for line in result.stdout.splitlines() if line.startswith("loaded ")]
    assert len(loaded) == 2
    assert loaded[0] == pytest.approx(loaded[1], abs=0.01)
    (spec,) = (tmp_path / "runs/brightness/a/export").glob("*/model.json")
    assert json.loads(spec.read_text())["outputs"][0]["name"] == "brightness"
    runs = {name: json.loads((tmp_path / f"runs/brightness/{name}/metrics.json").read_text()) for name in "ab"}
    assert {run["mode"] for run in runs.values()} == {"min"}
    (starred,) = [line.split()[1] for line in result.stdout.splitlines() if line.strip().startswith("★ ")]
    assert starred == min(runs, key=lambda name: runs[name]["metrics"]["mae"])  # the lower error is the better one
