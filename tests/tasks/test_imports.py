"""What commands import: imports take time, and no command imports what it does not use."""

import json
import os
import subprocess
import sys
from pathlib import Path

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
# Runs commands one after the other, and prints after each which modules it and those before have imported.
SCRIPT = """
import io, json, runpy, sys
from contextlib import redirect_stdout
import torch
commands, said, found = json.loads(sys.argv[1]), io.StringIO(), [sorted(sys.modules)]
for module, *sys.argv[1:] in commands:
    with redirect_stdout(said):
        runpy.run_module(f"tasks.{module}", run_name="__main__", alter_sys=True)
    found.append(sorted(sys.modules))
print(json.dumps([said.getvalue(), *found]))
"""


def imported(*commands: list[str]) -> list[set[str]]:
    """The modules of `import torch`, and all that have been imported when each command ends."""
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands)],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    said, *found = json.loads(result.stdout)
    assert "GPU available" not in said + result.stderr  # Lightning is quiet, however late it is imported
    return [set(modules) for modules in found]


def slow(modules: set[str]) -> set[str]:
    return (SLOW & {name.partition(".")[0] for name in modules}) | (PARTS & modules)


def test_commands_that_import_torch_alone(tmp_path: Path, scenes: Path) -> None:
    """Counting costs, predicting with a checkpoint, checking a data set, and printing the paper's tables."""
    run = untrained(tmp_path / "run", *TINY, "task=detection", f"data.root={scenes}")
    image = next(scenes.rglob("*.jpg"))
    commands = {
        "pan": ["cost", "task=detection", "detector=pan"],
        "faster_rcnn": ["cost", "task=detection", "detector=faster_rcnn"],
        "predict": ["predict", f"ckpt={run}", f"input={image}", f"output={tmp_path / 'out'}"],
        "check": ["check", f"data.root={scenes}", f"output={tmp_path / 'check.html'}"],
        "paper": ["paper", f"runs={tmp_path}"],
    }
    torchs, *found = imported(*commands.values())
    loaded = {name: slow(modules) for name, modules in zip(commands, found, strict=True)}
    assert not any(loaded.values()), loaded
    assert all(len(modules) < len(torchs) + 600 for modules in found[:3])
    assert Image.open(next((tmp_path / "out").glob("*.jp*g"))).size == Image.open(image).size


def test_a_run_imports_no_more_than_it_trains_with(tmp_path: Path, scenes: Path) -> None:
    """Lightning imports torchvision, matplotlib, scipy and others if installed; the suite adds no optional ones."""
    settings = ["task=detection", "data=demo_scenes", "trainer.steps=1", "logger.images=0", "name=x"]
    settings += ["trainer.limit_train_batches=1", f"data.root={scenes}", f"paths.runs={tmp_path}"]
    _, found = imported(["run", *TINY, *settings])
    assert "lightning" in found
    assert not {"timm", "onnx", "onnxruntime", "faiss", "h5py"} & found
