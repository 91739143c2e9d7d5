"""Exports: written by the command, run by their own runtimes, and what is said of bad input."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch

from backbones.errors import UserError
from tasks import export, predict, run
from tasks.checkpoint import load_checkpoint, restore
from tasks.config import load_config
from tasks.exporting import FORMATS
from tasks.train import build_data
from tests.conftest import TINY


def make(*overrides: object) -> Path:
    """Runs the command in this process."""
    return export.execute([str(o) for o in overrides])


@pytest.fixture(scope="module")
def dog(dogs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a small classifier."""
    runs = tmp_path_factory.mktemp("runs")
    tiny = [s for s in TINY if not s.startswith(("data.train", "data.val"))]
    settings = [
        *tiny,
        "task=dogs",
        "data=dogs",
        f"data.root={dogs}",
        f"paths.runs={runs}",
        "name=tiny",
        "logger.pictures=0",
    ]
    run.execute([*settings, "trainer.max_epochs=1", "trainer.progress=false"])
    return runs / "dogs" / "tiny"


@pytest.fixture(scope="module")
def onnx(dog: Path) -> Path:
    return make(f"ckpt={dog}")


def spec_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "model.json").read_text())
    return content


def run_example(folder: Path, picture: Path) -> list[dict[str, Any]]:
    """What example.py says of a picture, where torch cannot be imported."""
    code = "import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
    arguments = [sys.executable, "-c", code, str(folder / "example.py"), str(picture)]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return [json.loads(line.partition(" ")[2]) for line in result.stdout.splitlines()]


def test_an_export_is_where_and_what_it_should_be(onnx: Path, dog: Path) -> None:
    assert onnx == dog / "export" / "dogs-0.25-96-onnx"
    assert {f.name for f in onnx.iterdir()} == {"model.onnx", "model.json", "example.py"}
    assert [f.name for f in onnx.parent.iterdir()] == [onnx.name]  # nothing half-written is left
    spec = spec_of(onnx)
    assert spec["sha256"] == hashlib.sha256((onnx / "model.onnx").read_bytes()).hexdigest()
    assert spec["input"]["shape"] == ["batch", 96, 96, 3]
    assert spec["outputs"] == [
        {"name": "probabilities", "shape": ["batch", 12], "type": "float32", "meaning": "of each class"}
    ]
    assert len(spec["labels"]) == 12
    assert spec["metrics"]["before"] == pytest.approx(spec["metrics"]["after"])
    assert spec["differences"]["probabilities"] < 1e-4


@pytest.mark.parametrize("layout", ["uint8_nhwc", "float_nchw"])
def test_onnx_takes_any_batch_and_either_input(dog: Path, tmp_path: Path, layout: str) -> None:
    folder = make(f"ckpt={dog}", f"input={layout}", f"output={tmp_path}")
    images = torch.randint(0, 256, (3, 3, 96, 96), dtype=torch.uint8)
    model = restore(load_checkpoint(dog)).model
    with torch.inference_mode():
        wanted = model.postprocess(model(model.preprocess(images)))
    pixels = images.permute(0, 2, 3, 1).numpy() if layout == "uint8_nhwc" else images.float().numpy()
    (got,) = FORMATS["onnx"].module().Runner(folder / "model.onnx", 1)(pixels)
    np.testing.assert_allclose(got, wanted.numpy(), atol=1e-5)


def test_the_example_says_what_predict_says(onnx: Path, dog: Path, dogs: Path, tmp_path: Path) -> None:
    picture = next((dogs / "Images").rglob("*.jpg"))
    predict.predict(load_config([f"ckpt={dog}", f"input={picture}", f"output={tmp_path}"], "predict"))
    wanted = json.loads((tmp_path / "predictions.jsonl").read_text())["classes"]
    got = run_example(onnx, picture)
    assert [row["label"] for row in got] == [row["label"] for row in wanted]
    assert [row["score"] for row in got] == pytest.approx([row["score"] for row in wanted], abs=0.02)


def test_an_export_is_not_replaced_unasked(onnx: Path, dog: Path) -> None:
    before = spec_of(onnx)["provenance"]["exported"]
    with pytest.raises(UserError, match="exists; give overwrite=true"):
        make(f"ckpt={dog}")
    time.sleep(1)
    make(f"ckpt={dog}", "overwrite=true")
    assert spec_of(onnx)["provenance"]["exported"] > before
    assert [f.name for f in onnx.parent.iterdir()] == [onnx.name]


def test_bad_input(dog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = torch.load(dog / "checkpoints" / "best.ckpt", weights_only=True)
    content["suite"]["version"] = 99
    torch.save(content, tmp_path / "new.ckpt")
    for overrides, words in (
        ([f"ckpt={dog}", "format=coreml"], "format=coreml: choose from onnx"),
        ([f"ckpt={tmp_path / 'new.ckpt'}"], "newer version"),
        ([f"ckpt={tmp_path / 'no'}"], "there is no checkpoint"),
        ([f"ckpt={dog}", "output=/proc/export"], "cannot be written"),
        ([f"ckpt={dog}", f"output={tmp_path}", f"root={tmp_path}"], "prepare|there is no|cannot be read|is missing"),
    ):
        with pytest.raises(UserError, match=words) as error:
            make(*overrides)
        assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=re.escape("pip install -e '.[onnx]'")):
        make(f"ckpt={dog}", f"output={tmp_path}")


def test_int8_needs_training_pictures(dog: Path, dogs: Path, tmp_path: Path) -> None:
    root = tmp_path / "dogs"
    shutil.copytree(dogs, root)
    trained = scipy.io.loadmat(root / "train_list.mat")["file_list"]
    for row in trained:
        (root / "Images" / str(row[0][0])).unlink()
    with pytest.raises(UserError, match="int8 takes its ranges from training pictures"):
        make(f"ckpt={dog}", f"root={root}", f"output={tmp_path}", "quantize=int8")
    assert not list(tmp_path.glob("*export*"))


def test_what_loses_too_much_is_kept_and_said(dog: Path, tmp_path: Path) -> None:
    """A head that knows the validation pictures by heart, and has a weight so large, though the same for all classes,
    that int8 has no bits left for the others.
    """
    content = load_checkpoint(dog)
    data = build_data(content["suite"]["config"])
    model = restore(load_checkpoint(dog)).model
    batches = list(data.val_dataloader())
    with torch.inference_mode():
        features = torch.cat([model.embed(model.preprocess(b.images)) for b in batches])
    wanted = torch.nn.functional.one_hot(torch.cat([b.labels for b in batches]), 12).float()
    head = 20 * torch.linalg.lstsq(features, wanted).solution.T
    head[:, features.std(0).argmax()] += 1e4
    content["state_dict"] |= {"model.head.weight": head, "model.head.bias": torch.zeros(12)}
    torch.save(content, tmp_path / "bad.ckpt")
    words = r"is kept, but top1 falls by [89]\d\.\d+ points, more than max_drop=2; the layers .* most are head \("
    with pytest.raises(UserError, match=words):
        make(f"ckpt={tmp_path / 'bad.ckpt'}", f"output={tmp_path}", "quantize=int8")
    assert (tmp_path / "dogs-0.25-96-int8-onnx" / "model.onnx").exists()
