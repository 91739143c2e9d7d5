"""Exports: written by the command, run by their own runtimes, and errors for bad input."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from huggingface_hub import ModelCard

from backbones.errors import UserError
from tasks import bench, load, predict, run
from tasks.engine.checkpoint import load_checkpoint
from tasks.engine.config import load_config
from tasks.engine.model import PooledNet
from tasks.engine.options import locate
from tasks.engine.report import ABSENT
from tasks.engine.results import Result
from tasks.engine.start import build_data
from tasks.engine.task import restore
from tasks.export import __main__ as export
from tasks.export import speed
from tasks.export.exporter import check_measured
from tasks.export.formats import FORMATS, installed
from tasks.export.qat import fine_tune, int8_layers, rounding
from tests.conftest import EARTH, FEW, ROOT, SHALLOW, TINY, untrained

PLACE = ["latitude", "longitude", "confidence", "cells"]
SSD = ("data=demo_scenes", "data.root={scenes}", "task.draw_threshold=0", "detector=ssd", SHALLOW, *TINY)


def make(*overrides: object) -> Path:
    """Runs the command in this process."""
    return export.execute([str(o) for o in overrides])


@pytest.fixture(scope="module")
def dog(dogs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a small classifier."""
    runs = tmp_path_factory.mktemp("runs")
    tiny = [s for s in TINY if not s.startswith(("data.train", "data.val"))]
    where = ["task=dogs", "data=dogs", f"data.root={dogs}", f"paths.runs={runs}", "name=tiny", "logger.images=0"]
    run.execute([*tiny, *where, SHALLOW, "trainer.max_epochs=1", "trainer.progress_bar=false"])
    return runs / "dogs" / "tiny"


@pytest.fixture(scope="module")
def onnx(dog: Path) -> Path:
    return make(f"ckpt={dog}")


def spec_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "model.json").read_text())
    return content


def run_example(folder: Path, image: Path) -> dict[str, Any]:
    """What example.py prints for an image when torch cannot be imported."""
    code = "import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
    arguments = [sys.executable, "-c", code, str(folder / "example.py"), str(image)]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout.partition(" ")[2])
    return found


def test_an_export_is_where_and_what_it_should_be(onnx: Path, dog: Path) -> None:
    assert onnx == dog / "export" / "dogs-0.25-96-onnx"
    assert {f.name for f in onnx.iterdir()} == {"model.onnx", "model.json", "example.py", "README.md"}
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


def test_the_card_says_what_was_measured(onnx: Path, dogs: Path) -> None:
    card: Any = ModelCard((onnx / "README.md").read_text())
    spec = spec_of(onnx)
    assert {r.metric_type: r.metric_value for r in card.data.eval_results} == pytest.approx(
        {name: value for name, value in spec["metrics"]["after"].items() if "/" not in name}, abs=1e-5
    )
    assert card.data.pipeline_tag == "image-classification"
    latency = spec["latency"]
    assert 0 < latency["median_ms"] <= latency["p95_ms"]
    for words in (f"{latency['median_ms']:.2f} ms", latency["machine"], f"{spec['cost']['madds_m']:.1f} million"):
        assert words in card.text
    assert str(dogs.parent) not in card.content


def test_a_file_names_no_folder_of_this_machine(dog: Path, onnx: Path, dogs: Path, tmp_path: Path) -> None:
    few = ("calibration=8", "qat_steps=1", "max_drop=100")
    int8 = make(f"ckpt={dog}", f"output={tmp_path}", "quantize=int8_qat", *few)
    assert int8.name == "dogs-0.25-96-int8-qat-onnx"
    for folder in (onnx, int8):
        said = b"".join((folder / file).read_bytes() for file in ("model.onnx", "model.json"))
        for words in ("stack_trace", ROOT, Path(sys.prefix).resolve(), dogs.parent):
            assert str(words).encode() not in said


def test_onnx_takes_any_batch(onnx: Path, dog: Path) -> None:
    (got,) = FORMATS["onnx"].module().Runner(onnx / "model.onnx", 1)(NOISE.permute(0, 2, 3, 1).numpy())
    np.testing.assert_allclose(got, probabilities(dog, NOISE), atol=1e-5)


NOISE = torch.randint(0, 256, (3, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def probabilities(run: Path, images: torch.Tensor) -> np.ndarray:
    """What a checkpoint gives uint8 images (B, 3, 96, 96)."""
    model = restore(load_checkpoint(run)).model
    with torch.inference_mode():
        return model.postprocess(model(model.preprocess(images))).numpy()


def fitted(run: Path) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    """The checkpoint with a head fitted to the validation images, these (B, 3, 96, 96) and their features."""
    content = load_checkpoint(run)
    batches = list(build_data(content["suite"]["config"]).val_dataloader())
    images, model = torch.cat([b.images for b in batches]), restore(load_checkpoint(run)).model
    assert isinstance(model, PooledNet)
    with torch.inference_mode():
        features = model.embed(model.preprocess(images))
    wanted = torch.nn.functional.one_hot(torch.cat([b.labels for b in batches]), 12).float()
    head = 20 * torch.linalg.lstsq(features, wanted).solution.T
    content["state_dict"] |= {"model.head.weight": head, "model.head.bias": torch.zeros(12)}
    return content, images, features


def test_the_example_says_what_predict_says(onnx: Path, dog: Path, dogs: Path, tmp_path: Path) -> None:
    image = next((dogs / "Images").rglob("*.jpg"))
    predict.predict(load_config([f"ckpt={dog}", f"input={image}", f"output={tmp_path}"], "predict"))
    wanted = json.loads((tmp_path / "predictions.jsonl").read_text())["classes"]
    got = run_example(onnx, image)["classes"]
    here, there = ({row["label"]: row["score"] for row in rows} for rows in (got, wanted))
    assert got[0]["label"] == wanted[0]["label"]
    both = here.keys() & there.keys()
    assert len(both) >= 3  # the network is hardly trained: scores that are close may change places
    assert [here[label] for label in both] == pytest.approx([there[label] for label in both], abs=0.02)


def varied(folder: Path, *overrides: str) -> Path:
    """A run folder with an untrained network whose outputs differ from each other."""
    path = untrained(folder, *overrides) / "checkpoints" / "best.ckpt"
    content = torch.load(path, weights_only=True)
    for name, tensor in content["state_dict"].items():
        if "head" in name and name.endswith("weight"):
            tensor *= 10
    torch.save(content, path)
    return folder


@pytest.mark.parametrize(
    ("task", "settings", "keys"),
    [
        ("detection", SSD, ["detections"]),
        ("faces", ("data=demo_faces", "data.root={faces}", *FEW), ["attributes"]),
        ("embedding", ("data=demo_people", "data.root={faces}", "task.dim=16", *FEW), ["embedding"]),
        ("geo", EARTH, PLACE),
    ],
)
def test_every_task_leaves_the_suite(
    task: str, settings: tuple[str, ...], keys: list[str], scenes: Path, faces: Path, tmp_path: Path
) -> None:
    own = [s.format(scenes=scenes, faces=faces) for s in settings]
    network = varied(tmp_path / task / "tiny", f"task={task}", f"paths.data={tmp_path}", *own)
    folder = make(f"ckpt={network}")
    metrics = spec_of(folder)["metrics"]
    before, after = (
        {name: value for name, value in metrics[when].items() if not name.startswith("lfw_")}  # one pair decides a fold
        for when in ("before", "after")
    )
    assert before == pytest.approx(after, abs=0.01, nan_ok=True)
    image = next(scenes.rglob("*.jpg"))
    assert list(run_example(folder, image)) == keys
    paths, lowest = (network, folder), None if task in ("embedding", "geo") else 0.0
    wanted, got = (next(load(path, threshold=lowest).predict(image)) for path in paths)
    assert type(got) is type(wanted) is not Result
    assert got.to_dict().keys() == wanted.to_dict().keys() >= set(keys)
    assert got.draw().size == wanted.draw().size
    if task == "geo":
        assert got.latitude == pytest.approx(wanted.latitude, abs=0.5)
        assert [cell["token"] for cell in got.cells] == [cell["token"] for cell in wanted.cells]
        assert str(got.describe()).partition(";")[2] == str(wanted.describe()).partition(";")[2]  # without the degrees
    elif task == "embedding":
        assert got.embedding @ wanted.embedding > 0.999
    else:
        np.testing.assert_allclose(got.scores, wanted.scores, atol=0.02)


def test_an_export_is_replaced_when_asked(dog: Path, onnx: Path, tmp_path: Path) -> None:
    shutil.copytree(onnx, tmp_path / onnx.name)
    with pytest.raises(UserError, match="exists; give overwrite=true"):
        make(f"ckpt={dog}", f"output={tmp_path}", "input=float_nchw")
    assert spec_of(tmp_path / onnx.name) == spec_of(onnx)
    folder = make(f"ckpt={dog}", f"output={tmp_path}", "input=float_nchw", "overwrite=true")
    assert [f.name for f in tmp_path.iterdir()] == [onnx.name]
    (got,) = FORMATS["onnx"].module().Runner(folder / "model.onnx", 1)(NOISE.float().numpy())
    np.testing.assert_allclose(got, probabilities(dog, NOISE), atol=1e-5)


@pytest.mark.parametrize("form", ["litert", "executorch"])
def test_int8_for_phones(dog: Path, onnx: Path, dogs: Path, tmp_path: Path, form: str) -> None:
    """Batches of two images, the last one incomplete; of a network whose answers differ between images."""
    if missing := [name for name in FORMATS[form].packages if not installed(name)]:
        pytest.skip(f"needs {missing[0]}, of the extra {form}")
    content, images, _ = fitted(dog)
    torch.save(content, tmp_path / "a.ckpt")
    settings = (f"format={form}", "quantize=int8", "batch=2", "max_drop=100", "calibration=8")
    folder = make(f"ckpt={tmp_path / 'a.ckpt'}", f"output={tmp_path}", *settings)
    spec = spec_of(folder)
    assert spec["input"]["shape"] == [2, 96, 96, 3]
    weights = (onnx / "model.onnx").stat().st_size
    assert (folder / spec["file"]).stat().st_size < 0.5 * weights
    images, wanted = images[:23], probabilities(tmp_path / "a.ckpt", images[:23])
    (got,) = FORMATS[form].module().Runner(folder / spec["file"], 1)(images.permute(0, 2, 3, 1).numpy())
    assert got.shape == (23, 12)
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(got, wanted, atol=spec["differences"]["probabilities"] + 1e-3)
    assert np.mean(got.argmax(axis=1) == wanted.argmax(axis=1)) > 0.8
    photos = sorted((dogs / "Images").rglob("*.jpg"))[:3]
    assert all(len(result.labels) == 5 for result in load(folder).predict(photos))
    if form == "litert":  # ExecuTorch's Python runtime needs torch
        assert len(run_example(folder, photos[0])["classes"]) == 5


def test_safetensors_are_a_checkpoint(dog: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Running it leaves torch's threads alone, and its command can be copied, whatever the folder's name."""
    threads, output = torch.get_num_threads(), tmp_path / "two words"
    torch.set_num_threads(1)
    try:
        folder = make(f"ckpt={dog}", f"output='{output}'", "format=torch")
        assert torch.get_num_threads() == spec_of(folder)["latency"]["threads"] == 1
    finally:
        torch.set_num_threads(threads)
    assert f"try: python '{folder / 'example.py'}' <image>" in capsys.readouterr().out
    again, own = load_checkpoint(folder), load_checkpoint(dog)
    assert again["suite"] == own["suite"]
    assert all(torch.equal(again["state_dict"][name], tensor) for name, tensor in own["state_dict"].items())
    (folder / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="cannot be read"):
        load_checkpoint(folder)


def test_a_task_starts_from_an_exported_backbone(dog: Path, tmp_path: Path) -> None:
    content = torch.load(dog / "checkpoints" / "best.ckpt", weights_only=True)
    content["suite"]["config"]["backbone"]["weights"] = "https://ann:secret@host/a.pth"
    torch.save(content, tmp_path / "a.ckpt")
    folder = make(f"ckpt={tmp_path / 'a.ckpt'}", f"output={tmp_path}", "format=torch", "part=backbone")
    assert spec_of(folder)["difference"] < 1e-4
    assert spec_of(folder)["backbone"]["weights"] == "a.pth"
    weights = folder / "backbone.safetensors"
    config = load_config(["task=detection", "backbone.alpha=0.25", SHALLOW, f"backbone.weights={weights}"])
    backbone = locate(config, "task")(config, ["thing"]).model.backbone
    name = "blocks.3.1.conv.weight"
    assert torch.equal(backbone.state_dict()[name], load_checkpoint(dog)["state_dict"][f"model.backbone.{name}"])
    with pytest.raises(UserError, match="part=backbone needs format=torch"):
        make(f"ckpt={dog}", "part=backbone")


def test_training_on_in_int8_helps(dog: Path) -> None:
    """Quantization-aware fine-tuning lowers the int8 loss of a network that suffers from rounding: its weights differ
    widely in size within a channel.
    """
    torch.manual_seed(0)
    content = load_checkpoint(dog)
    content["suite"]["config"]["data"]["workers"] = 0
    data, module = build_data(content["suite"]["config"]), restore(content)
    batch = next(iter(data.train_dataloader()))

    def rounded_loss() -> float:
        with rounding(module.model), torch.inference_mode():
            return float(module.compute_losses(batch)["class"])

    module.config["trainer"]["accelerator"] = "gpu"  # which this machine may lack
    for _, layer, _ in int8_layers(module.model)[2:]:
        layer.weight.data.flatten(1)[:, 0] *= 30
    before = rounded_loss()
    fine_tune(module, data, steps=240, lr=3e-3)  # 60 epochs
    assert rounded_loss() < 0.9 * before
    assert not any(hasattr(m, "parametrizations") for m in module.model.modules())


def test_bench(onnx: Path, dog: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "THREADS", (1,))  # each number of threads takes its own process, which imports torch
    monkeypatch.setattr(sys, "argv", ["bench", f"export={onnx.parent}", "seconds=0.01", "format=json"])
    bench.main()
    (row,) = json.loads(capsys.readouterr().out)
    eager, compiled = speed.contenders(str(dog), {}, True)
    for got in (row, asdict(speed.measure(eager, 1, 0.01))):
        assert 0 < got["median_ms"] <= got["p95_ms"]
        assert 0 < got["share_of_peak"] < 1
    assert (row["name"], compiled.kind) == (onnx.name, "compiled")
    assert row["file_mb"] == pytest.approx((onnx / "model.onnx").stat().st_size / 1e6)
    for bad, words in (([], "give ckpt="), (["export=/proc/no"], "there is no export in it")):
        monkeypatch.setattr(sys, "argv", ["bench", *bad])
        with pytest.raises(SystemExit):
            bench.main()
        assert words in capsys.readouterr().err


def test_bench_takes_sizes_that_are_checked(onnx: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(onnx, tmp_path / "export"))
    content = json.loads((folder / "model.json").read_text())
    content["input"] |= {"shape": [1, 1 << 20, 1 << 20, 3], "type": "object"}
    content["cost"]["megabytes"] = "x"
    (folder / "model.json").write_text(json.dumps(content))
    _, pixels, _, megabytes = speed.load(speed.Contender("x", str(folder), "onnx"), 1)
    assert megabytes == pytest.approx((folder / "model.onnx").stat().st_size / 1e6)
    side = content["input"]["size"]
    assert sorted(pixels.shape) == sorted((16, side, side, 3))
    assert pixels.dtype in (np.uint8, np.float32)


def test_bench_needs_only_the_runtime(onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contender = speed.Contender("x", str(onnx), "onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # which writes such files
    call, pixels, *_ = speed.load(contender, 1)
    assert call(pixels[:2])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="needs onnxruntime: pip install onnxruntime"):
        speed.measure_all([contender], 0.01)


def test_memory_is_known_without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS has no /proc, and reports bytes."""
    now = speed.resident()
    monkeypatch.setattr(speed, "STATM", tmp_path / "absent")
    assert speed.resident() >= 0.9 * now
    kilobytes = speed.peak_memory()
    monkeypatch.setattr("tasks.export.speed.sys.platform", "darwin")
    assert speed.peak_memory() == pytest.approx(kilobytes / 1024, rel=0.1)


def test_bad_input(dog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = torch.load(dog / "checkpoints" / "best.ckpt", weights_only=True)
    content["suite"]["version"] = 99
    torch.save(content, tmp_path / "new.ckpt")
    for overrides, words in (
        ([f"ckpt={dog}", "format=coreml"], "format=coreml: choose from onnx, litert"),
        ([f"ckpt={tmp_path / 'new.ckpt'}"], "newer version"),
        ([f"ckpt={tmp_path / 'no'}"], "there is no checkpoint"),
        ([f"ckpt={dog}", "output=/proc/export"], "cannot be written"),
        ([f"ckpt={dog}", "format=torch", "quantize=int8"], "format=torch cannot be quantized"),
    ):
        with pytest.raises(UserError, match=words) as error:
            make(*overrides)
        assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=re.escape("pip install -e '.[onnx]'")):
        make(f"ckpt={dog}", f"output={tmp_path}")


def test_int8_needs_training_images(dog: Path, dogs: Path, tmp_path: Path) -> None:
    root = tmp_path / "dogs"
    shutil.copytree(dogs, root)
    trained = scipy.io.loadmat(root / "train_list.mat")["file_list"]
    for row in trained:
        (root / "Images" / str(row[0][0])).unlink()
    with pytest.raises(UserError, match="int8 needs training images for its ranges"):
        make(f"ckpt={dog}", f"root={root}", f"output={tmp_path}", "quantize=int8")
    assert list(tmp_path.iterdir()) == [root]


def test_what_loses_too_much_is_kept_and_said(dog: Path, tmp_path: Path) -> None:
    """A head fitted to the validation images, with one weight so large (the same for all classes) that int8 has no
    resolution left for the others.
    """
    content, _, features = fitted(dog)
    content["state_dict"]["model.head.weight"][:, features.std(0).argmax()] += 1e4
    torch.save(content, tmp_path / "bad.ckpt")
    words = (
        r"is kept, but top1 falls by 0\.[789]\d+, more than 0\.02 \(max_drop=2, in hundredths\); "
        r"the layers .* most are head \("
    )
    with pytest.raises(UserError, match=words):
        make(f"ckpt={tmp_path / 'bad.ckpt'}", f"output={tmp_path}", "quantize=int8", "calibration=8")
    assert (tmp_path / "dogs-0.25-96-int8-onnx" / "model.onnx").exists()


@pytest.mark.parametrize("value", [ABSENT, float("nan")])
def test_a_metric_that_says_nothing_is_no_reason_to_accept(dog: Path, value: float) -> None:
    module = restore(load_checkpoint(dog))
    check_measured(module, {"top1": 0.0})
    with pytest.raises(UserError, match="top1 could not be measured on these images; give images=<more>"):
        check_measured(module, {"top1": value})
