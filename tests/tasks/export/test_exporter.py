"""Where an export is written, and what is said of one that loses too much."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backbones.errors import UserError
from tasks.export.__main__ import execute as export
from tasks.export.exporter import export_folder
from tasks.export.runtimes import OnnxRunner
from tests.conftest import ROOT


def test_a_checkpoint_chooses_no_folder() -> None:
    """timm takes any word after a name's dot, and earlier versions a path."""
    module: Any = SimpleNamespace(config={"task": {"name": "dogs"}, "backbone": {"name": "net.tag"}}, resolution=32)
    config = {"output": None, "part": "model", "quantize": "none", "format": "onnx"}
    file = Path("runs/dogs/a/checkpoints/best.ckpt")
    assert export_folder(config, file, module) == Path("runs/dogs/a/export/dogs-net.tag-32-onnx")
    module.config["backbone"]["name"] = "net.tag/../../../../elsewhere"
    with pytest.raises(UserError, match=r"backbone\.name='net\.tag/\.\./.* must consist of letters"):
        export_folder(config, file, module)


def test_a_float_file_that_loses_too_much_is_kept_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here its runtime is at fault, which answers the opposite."""

    class Opposite(OnnxRunner):
        def __call__(self, images: np.ndarray) -> list[np.ndarray]:
            return [1 - output for output in super().__call__(images)]

    monkeypatch.setattr("tasks.export.to_onnx.Runner", Opposite)
    (source,) = (ROOT / "tests" / "fixtures").glob("*/runs/classification")
    files = shutil.copytree(source.parents[1], tmp_path / "files")
    words = r"is kept, but top1 falls by 0\.\d+, more than 0\.01 .*; its output probabilities differs by up to 0\.\d+$"
    with pytest.raises(UserError, match=words):
        export([f"ckpt={files / 'runs/classification/tiny'}", f"root={files / 'data'}", f"output={tmp_path / 'out'}"])
    assert (tmp_path / "out" / "classification-0.05-32-onnx" / "model.onnx").exists()
