"""What commands import: imports take time, and no command imports what it does not use."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import ROOT, TINY, untrained

# packages that take a quarter of torch's time or more
SLOW = {
    "lightning",
    "torchmetrics",
    "torchvision",
    "timm",
    "matplotlib",
    "scipy",
    "sympy",
    "transformers",
    "pycocotools",
}
PARTS = {"torch._dynamo", "torch._inductor", "torch.onnx._internal"}
SCRIPT = """
import atexit, json, runpy, sys
module, target, *sys.argv[1:] = sys.argv[1:]
atexit.register(lambda: open(target, "w").write(json.dumps(sorted(sys.modules))))
runpy.run_module(f"tasks.{module}", run_name="__main__", alter_sys=True)
"""


def imported(tmp_path: Path, module: str, *arguments: object) -> set[str]:
    """The modules that a command has imported when it ends."""
    target = tmp_path / "modules.json"
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, module, str(target), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "GPU available" not in result.stdout + result.stderr  # Lightning is quiet, however late it is imported
    return set(json.loads(target.read_text()))


def slow(modules: set[str]) -> set[str]:
    return (SLOW & {name.partition(".")[0] for name in modules}) | (PARTS & modules)


@pytest.fixture(scope="module")
def torchs() -> int:
    """How many modules `import torch` loads."""
    code = "import sys, torch; print(len(sys.modules))"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("detector", ["pan", "faster_rcnn"])
def test_costs_are_counted_with_torch_alone(detector: str, tmp_path: Path, torchs: int) -> None:
    found = imported(tmp_path, "cost", "task=detection", f"detector={detector}")
    assert not slow(found)
    assert len(found) < torchs + 600


def test_the_papers_tables_are_printed_with_torch_alone(tmp_path: Path) -> None:
    assert not slow(imported(tmp_path, "paper", f"runs={tmp_path}"))


def test_a_checkpoint_predicts_with_torch_alone(tmp_path: Path, scenes: Path, torchs: int) -> None:
    run = untrained(tmp_path / "run", *TINY, "task=detection", f"data.root={scenes}")
    image = next(scenes.rglob("*.jpg"))
    found = imported(tmp_path, "predict", f"ckpt={run}", f"input={image}", f"output={tmp_path / 'out'}")
    assert not slow(found)
    assert len(found) < torchs + 600
    assert Image.open(next((tmp_path / "out").glob("*.jp*g"))).size == Image.open(image).size


def test_a_data_set_is_checked_with_torch_alone(tmp_path: Path, scenes: Path) -> None:
    assert not slow(imported(tmp_path, "check", f"data.root={scenes}", f"output={tmp_path / 'check.html'}"))


def test_a_run_imports_no_more_than_it_trains_with(tmp_path: Path, scenes: Path, torchs: int) -> None:
    """Lightning imports torchvision, matplotlib, scipy and others if installed; the suite adds no optional ones."""
    settings = (
        "task=detection",
        "data=demo_scenes",
        "trainer.steps=1",
        "logger.images=0",
        "trainer.limit_train_batches=1",
    )
    found = imported(tmp_path, "run", *TINY, *settings, f"data.root={scenes}", f"paths.runs={tmp_path}", "name=x")
    assert "lightning" in found
    assert not {"timm", "onnx", "onnxruntime", "faiss", "h5py"} & found
