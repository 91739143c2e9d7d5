"""Where an export is written, and what is said of a float file that loses too much."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backbones.errors import UserError
from tasks.export.exporter import export_folder, reasons


def test_a_checkpoint_chooses_no_folder() -> None:
    """timm takes any word after a name's dot, and earlier versions a path."""
    module: Any = SimpleNamespace(config={"task": {"name": "dogs"}, "backbone": {"name": "net.tag"}}, resolution=32)
    config = {"output": None, "part": "model", "quantize": "none", "format": "onnx"}
    file = Path("runs/dogs/a/checkpoints/best.ckpt")
    assert export_folder(config, file, module) == Path("runs/dogs/a/export/dogs-net.tag-32-onnx")
    module.config["backbone"]["name"] = "net.tag/../../../../elsewhere"
    with pytest.raises(UserError, match=r"backbone\.name='net\.tag/\.\./.* must consist of letters"):
        export_folder(config, file, module)


def test_the_output_that_differs_most_is_named() -> None:
    """tests/tasks/export/test_export.py has the whole message, of an int8 file."""
    spec: Any = SimpleNamespace(differences={"boxes": 0.125, "scores": 0.5})
    graph: Any = None  # which is not run for a float file
    assert reasons(graph, [], spec) == "its output scores differs by up to 0.5"
