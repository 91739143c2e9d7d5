"""A backbone that is added as CONTRIBUTING.md says."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.engine import config as configuration
from tasks.engine import options
from tasks.engine.checkpoint import load_checkpoint
from tasks.engine.config import load_config
from tasks.engine.options import locate
from tasks.engine.task import restore


def test_a_backbone_that_follows_contributing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels, strides and normalization, and a builder of strides, resolution, weights and pretrained: no more."""
    conf = tmp_path / "conf"
    shutil.copytree(configuration.CONF, conf)
    (conf / "backbone" / "plain.yaml").write_text(
        "_target_: backbones.plain.build_plain\nrho: 1.0\nweights: null\npretrained: false\nwidth: 8\n"
    )
    (tmp_path / "plain.py").write_text(PLAIN_BACKBONE)
    for module_with_it in (configuration, options):
        monkeypatch.setattr(module_with_it, "CONF", conf)
    monkeypatch.setattr("backbones.__path__", [*__import__("backbones").__path__, str(tmp_path)])
    for option in ("task=classification", "detector=ssd"):
        config = load_config([option, "backbone=plain", "task.resolution=64"])
        module = locate(config, "task")(config, ["a", "b"])
        saved: dict[str, Any] = {"state_dict": module.state_dict()}
        module.on_save_checkpoint(saved)
        torch.save(saved, tmp_path / "x.ckpt")
        again = restore(load_checkpoint(tmp_path / "x.ckpt"))
        images = torch.rand(1, 3, 64, 64)
        module.eval()
        for a, b in zip(module.model.backbone(images), again.model.backbone(images), strict=True):
            assert torch.equal(a, b)
        assert again.resolved["normalization"] == [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]


PLAIN_BACKBONE = """
from torch import nn
from backbones.base import Backbone, Normalization


class Plain(Backbone):
    def __init__(self, width, strides):
        super().__init__()
        self.strides = tuple(strides)
        self.channels = (width,) * len(self.strides)
        self.normalization = Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
        self.maps = nn.ModuleList(nn.Conv2d(3, width, s, s) for s in strides)

    def forward(self, images):
        return [conv(images) for conv in self.maps]


def build_plain(*, width, strides, resolution, weights=None, pretrained=False):
    return Plain(width, strides)
"""
