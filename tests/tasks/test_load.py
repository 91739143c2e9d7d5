"""Models used from Python: what is loaded, which images are taken, what results are."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from backbones.errors import UserError
from data.image_file import BadImage
from data.inputs import ImageInput, read_input
from tasks import load
from tasks.classification.results import ClassResult
from tasks.detection.results import DetectionResult
from tasks.engine.config import load_config
from tasks.engine.options import result_type
from tasks.engine.results import Result
from tasks.export.__main__ import execute as export
from tasks.export.package import read_spec
from tasks.inference.predictor import check_threshold
from tasks.predict import predict
from tests.conftest import ROOT, untrained

# export time grows with the number of layers
SMALL = (
    *("backbone.alpha=0.25", "backbone.variant=shallow", "task.resolution=96"),
    *("data.batch_size=8", "data.workers=0"),
)


@pytest.fixture(scope="module")
def runs(scenes: Path, dogs: Path, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs of detection, dogs and faces, their ONNX exports, and photos where docs/python.md has them."""
    root = tmp_path_factory.mktemp("python")
    run = untrained(
        root / "runs/detection/demo",
        *SMALL,
        "detector=ssd",
        "data=demo_scenes",
        "data.train=24",
        "data.val=8",
        f"data.root={scenes}",
    )
    other = untrained(root / "runs/dogs/y", *SMALL, "task=dogs", "data=dogs", f"data.root={dogs}")
    third = untrained(
        root / "runs/faces/demo",
        "task=faces",
        *("backbone.alpha=0.5", "backbone.variant=shallow"),
        "data=demo_faces",
        "data.people=20",
        "data.images_per_identity=3",
        f"data.root={faces}",
    )
    for folder in (run, other, third):
        export([f"ckpt={folder}", "max_drop=100"])
    shutil.copy(scenes / "val" / "000000.jpg", root / "a.jpg")
    (root / "datasets").mkdir()
    (root / "datasets/demo_faces").symlink_to(faces)
    Image.effect_noise((70, 50), 90).convert("RGB").save(root / "b.png")
    return root


@pytest.fixture(scope="module")
def detector(runs: Path) -> Path:
    return runs / "runs/detection/demo"


@pytest.fixture(scope="module")
def classifier(runs: Path) -> Path:
    return runs / "runs/dogs/y"


def exported(run: Path) -> Path:
    (folder,) = (run / "export").iterdir()
    return folder


def test_the_page_on_python_is_true(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    page = (ROOT / "docs" / "python.md").read_text()
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for block in blocks:
        exec(block, names)
    assert len(blocks) >= 5
    assert names["result"].labels[0] in names["model"].class_names
    assert Path("drawn.png").exists()


def test_importing_tasks_imports_nothing_slow() -> None:
    code = "import sys, tasks; print(sorted({'torch', 'hydra', 'lightning', 'numpy'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_an_onnx_export_answers_without_torch(detector: Path, classifier: Path, runs: Path) -> None:
    code = """
import sys
from tasks import load
for folder in sys.argv[2:]:
    (result,) = load(folder, threshold=0.0).predict(sys.argv[1])
    result.draw().load()
    assert result.labels, result
    print(type(result).__name__)
print(sorted({"torch", "torchvision", "lightning"} & set(sys.modules)))
"""
    folders = [str(exported(run)) for run in (detector, classifier)]
    arguments = [sys.executable, "-c", code, str(runs / "a.jpg"), *folders]
    result = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["DetectionResult", "ClassResult", "[]"]


def test_checkpoint_and_export_detect_the_same(detector: Path) -> None:
    """In an image that needs no resizing, so that both see the same pixels."""
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    results = [next(load(path, threshold=0.0).predict(image)) for path in (detector, exported(detector))]
    for result in results:
        assert isinstance(result, DetectionResult)
        assert result.boxes.shape == (len(result.labels), 4)
        assert result.boxes.min() >= 0
        assert result.boxes.max() <= 96
    wanted, got = results
    assert len(wanted.scores) > 10
    np.testing.assert_allclose(got.scores, wanted.scores, atol=2e-4)
    first = slice(0, 5)
    assert got.labels[first] == wanted.labels[first]
    np.testing.assert_allclose(got.boxes[first], wanted.boxes[first], atol=0.2)


def test_a_buffer_that_is_filled_again_is_read_before(detector: Path) -> None:
    """Of the model's own size, so that nothing is resized; two images are one batch."""
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)
    buffer = np.empty((96, 96, 3), np.uint8)

    def reused() -> Iterator[np.ndarray]:
        for image in images:
            buffer[:] = image
            yield buffer

    model = load(detector, threshold=0.0)
    for got, image in zip(model.predict(reused()), images, strict=True):
        np.testing.assert_allclose(got.scores, next(model.predict(image)).scores, atol=1e-5)


def test_checkpoint_and_export_classify_images_of_any_size_the_same(classifier: Path, runs: Path) -> None:
    bgr = np.asarray(Image.open(runs / "b.png"))[..., ::-1].copy()
    images: list[ImageInput] = [runs / "a.jpg", bgr[..., ::-1], Image.open(runs / "b.png"), str(runs / "a.jpg")]
    scores = []
    for path in (classifier, exported(classifier), classifier / "checkpoints" / "best.ckpt"):
        model = load(path)
        results = list(model.predict(images, batch_size=3))
        assert all(isinstance(result, ClassResult) for result in results)
        assert [result.source for result in results] == images
        assert results[1].to_dict() == results[2].to_dict()
        assert results[0].to_dict() == results[3].to_dict()
        rows = [(i, *row) for i in (0, 1) for row in zip(results[i].labels, results[i].scores, strict=True)]
        scores.append({(i, label): score for i, label, score in rows})
        assert model.task == "dogs"
    assert scores[0] == scores[2]
    common = scores[0].keys() & scores[1].keys()
    assert len(common) >= 5
    for label in common:
        assert scores[1][label] == pytest.approx(scores[0][label], abs=0.01)


def test_boxes_are_in_pixels_of_the_image(detector: Path, runs: Path) -> None:
    small = Image.open(runs / "a.jpg")
    large = small.resize((2 * small.width, 3 * small.height), Image.Resampling.NEAREST)
    for path in (detector, exported(detector)):
        (result,) = load(path, threshold=0.0).predict(large)
        assert result.boxes[:, [0, 2]].max() > small.width
        assert result.boxes[:, 3].max() > 2 * small.height
        assert result.draw().size == large.size
        assert not np.array_equal(np.asarray(result.draw()), np.asarray(large))
        assert json.loads(json.dumps(result.to_dict())) == result.to_dict()


def test_predictions_jsonl_has_to_dict(detector: Path, runs: Path, tmp_path: Path) -> None:
    model = exported(detector)
    predict(load_config([f"ckpt={model}", f"input={runs / 'a.jpg'}", f"output={tmp_path / 'out'}"], "predict"))
    line = json.loads((tmp_path / "out" / "predictions.jsonl").read_text())
    (result,) = load(model).predict(runs / "a.jpg")
    assert line == {"file": str(runs / "a.jpg"), "annotated": str(tmp_path / "out" / "a.jpg.jpg"), **result.to_dict()}


def test_an_embedding_is_compared_with_references(faces: Path, detector: Path, tmp_path: Path) -> None:
    few = ("data=demo_people", "data.people=20", "data.images_per_identity=3", f"data.root={faces}")
    model = load(untrained(tmp_path / "e", *SMALL, "task=embedding", "task.dim=16", *few))
    image, *others = sorted((faces / "lfw").rglob("*.jpg"))[:8]
    (tmp_path / "torn.jpg").touch()
    model.set_references([*others, tmp_path / "torn.jpg", Image.open(image)])
    (result,) = model.predict(image)
    assert len(result.matches) == 5
    assert result.matches[0] == {"file": "image 9", "similarity": pytest.approx(1, abs=1e-3)}
    assert str(result.describe()).startswith("similarity 1.000 image 9, ")
    arguments = [f"ckpt={tmp_path / 'e'}", f"input={image}", f"output={tmp_path / 'out'}"]
    with pytest.raises(UserError, match="reference: none of these images can be read"):
        predict(load_config([*arguments, f"reference={tmp_path / 'torn.jpg'}"], "predict"))
    with pytest.raises(UserError, match="threshold=0 has no effect on task=embedding; it is for classification, d"):
        predict(load_config([*arguments, "threshold=0"], "predict"))
    with pytest.raises(UserError, match="task=detection does not compare images"):
        load(exported(detector)).set_references([image])


# --- images --------------------------------------------------------------------------------------------


def test_images_of_every_mode_and_orientation(tmp_path: Path) -> None:
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    rgb.save(tmp_path / "turned.png", exif=exif)
    upright = np.rot90(np.asarray(rgb), -1)
    for source in (tmp_path / "turned.png", str(tmp_path / "turned.png"), Image.open(tmp_path / "turned.png")):
        pixels, size = read_input(source)
        assert size == (6, 4)
        np.testing.assert_array_equal(pixels, upright)
    wide = Image.fromarray(np.array([[0, 256, 65535]], np.uint16))
    np.testing.assert_array_equal(read_input(wide)[0][0, :, 0], [0, 1, 255])
    for mode in ("L", "RGBA", "P", "1", "CMYK"):
        assert read_input(rgb.convert(mode))[0].shape == (4, 6, 3)
    with pytest.raises(BadImage, match="32-bit"):
        read_input(rgb.convert("L").convert("F"))


def test_the_example_reads_the_same_pixels(classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["example.py"])
    folder, ramp = exported(classifier), np.linspace(0, 65535, 64 * 48).reshape(48, 64)
    read, model = runpy.run_path(str(folder / "example.py"))["read"], load(folder)
    images: dict[str, Any] = {"wide": ramp.astype(np.uint16), "grey": (ramp / 256).astype(np.uint8)}
    for name, pixels in images.items():
        path = tmp_path / f"{name}.png"
        Image.fromarray(pixels).save(path)
        np.testing.assert_array_equal(read(str(path))[0][0], model.view(read_input(path)[0]))
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(SystemExit, match="32-bit"):
        read(str(tmp_path / "float.tif"))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4)), r"image 2: an array must be RGB \(H, W, 3\) uint8, not \(4, 4\) float64"),
        (np.zeros((3, 4, 4), np.uint8), r"image 2: an array must be"),
        (np.zeros((0, 4, 3), np.uint8), r"image 2: an array must be"),
        (torch.zeros(3, 4, 4), "image 2: give a file name, .* not Tensor"),
        (None, "not NoneType"),
        ("no.jpg", "no.jpg: there is no such file"),
        (".", "is not a regular file"),
    ],
)
def test_what_is_no_image_is_named(detector: Path, image: Any, message: str) -> None:
    results = load(exported(detector)).predict([np.zeros((8, 8, 3), np.uint8), image], batch_size=1)
    next(results)
    with pytest.raises(UserError, match=message) as error:
        next(results)
    assert "\n" not in str(error.value)


def test_what_are_no_images_is_said_at_once(detector: Path) -> None:
    model = load(exported(detector))
    with pytest.raises(UserError, match="give an image or several, not int"):
        model.predict(3)  # type: ignore[arg-type]  # what is tested
    with pytest.raises(UserError, match="batch_size=0"):
        model.predict([], batch_size=0)
    assert list(model.predict([])) == []


def test_unreadable_images_can_be_skipped(
    detector: Path, runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "torn.jpg").write_bytes((runs / "a.jpg").read_bytes()[:900])
    model = load(exported(detector))
    images: list[ImageInput] = [tmp_path / "torn.jpg", Image.open(tmp_path / "torn.jpg"), runs / "a.jpg"]
    (result,) = model.predict(images, skip_unreadable=True)
    assert result.source == runs / "a.jpg"
    assert "torn.jpg" in caplog.text
    assert "image 2" in caplog.text
    with pytest.raises(UserError, match=r"torn\.jpg"):
        list(model.predict(images))


# --- what is loaded ------------------------------------------------------------------------------------


def test_what_is_neither_run_nor_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no checkpoint"):
        load(tmp_path / "absent")
    with pytest.raises(UserError, match="neither a run folder"):
        load(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="there is no checkpoint"):
        load(tmp_path)
    with pytest.raises(UserError, match=r"threshold=2 must be in \[0, 1\)"):
        load(tmp_path, threshold=2)


def test_a_threshold_needs_a_task_with_scores() -> None:
    check_threshold(None, ["geo"])
    check_threshold(0.5, ["geo", "dogs"])
    with pytest.raises(UserError, match="task=geo,embedding; it is for classification, detection, dogs, faces"):
        check_threshold(0.5, ["geo", "embedding"])


Spec = dict[str, Any]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda spec: spec | {"file": "../model.onnx"}, "file must be model.onnx"),
        (lambda spec: spec | {"format": "pickle"}, "format='pickle' is none of"),
        (lambda spec: spec | {"format": ["onnx"]}, "is none of"),
        (lambda spec: spec | {"version": 99}, "newer version"),
        (lambda spec: spec | {"labels": [{}]}, "labels is not a list"),
        (lambda spec: spec | {"task": 3}, "task is not a name"),
        (lambda spec: spec | {"outputs": [1]}, "outputs is not a list"),
        (lambda spec: spec | {"input": spec["input"] | {"size": 1 << 40}}, r"input\.size"),
        (lambda spec: spec | {"input": spec["input"] | {"layout": "x"}}, r"input\.layout"),
        (lambda spec: spec | {"input": spec["input"] | {"center_crop": 7}}, r"input\.center_crop"),
        (lambda spec: spec | {"input": spec["input"] | {"center_crop": 5e-324}}, r"input\.center_crop"),
        (lambda spec: spec | {"postprocess": {"nms_iou": "x"}}, "postprocess is not a table"),
        (lambda spec: spec | {"parts": {"dogs": {"postprocess": {"nms_iou": "x"}}}}, "postprocess is not a table"),
        (lambda spec: spec | {"cost": [1]}, r"cost\.madds_m is not a number"),
        (lambda spec: spec | {"cost": {"madds_m": "x"}}, r"cost\.madds_m is not a number"),
        (lambda spec: spec | {"cost": {"madds_m": float("nan")}}, r"cost\.madds_m is not a number"),
        (lambda spec: spec | {"cost": {"madds_m": 10**400}}, r"cost\.madds_m is not a number"),
        (lambda spec: spec | {"parts": [spec]}, "parts is not a table of tasks"),
        (lambda spec: spec | {"labels": ["dogs/a"], "parts": {"dogs": {"labels": ["b"]}}}, "the labels of parts"),
        (lambda spec: [spec], "is not an export"),
        (lambda spec: {}, "is not an export"),
    ],
)
def test_an_untrusted_model_json_is_checked(
    classifier: Path, tmp_path: Path, change: Callable[[Spec], Any], message: str
) -> None:
    folder = Path(shutil.copytree(exported(classifier), tmp_path / "export"))
    content = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(change(content)))
    with pytest.raises(UserError, match=message) as error:
        load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "{}" + " " * (1 << 26)])
def test_a_model_json_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(UserError, match=r"model\.json"):
        load(tmp_path)


def test_an_untrusted_export_runs_no_code_and_fits_or_is_refused(classifier: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported(classifier), tmp_path / "export"))
    (folder / "example.py").write_text("raise SystemExit('was run')")
    image = np.zeros((8, 8, 3), np.uint8)
    assert next(load(folder).predict(image)).labels
    content = json.loads((folder / "model.json").read_text())
    changes: list[dict[str, Any]] = [{"labels": []}, {"outputs": []}, {"task": "detection"}, {"task": "geo"}]
    for changed in changes:
        (folder / "model.json").write_text(json.dumps(content | changed))
        with pytest.raises(UserError, match="do not fit"):
            next(load(folder).predict(image))
    with pytest.raises(UserError, match=r"threshold=0\.5 has no effect on task=geo"):
        load(folder, threshold=0.5)
    (folder / "model.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="cannot be run"):
        load(folder)


def test_a_task_that_is_not_ours_answers_with_its_outputs(classifier: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported(classifier), tmp_path / "export"))
    content = json.loads((folder / "model.json").read_text())
    for name in ("unheard_of", "../../x", "_classifier", "task=dogs"):
        (folder / "model.json").write_text(json.dumps(content | {"task": name}))
        (result,) = load(folder).predict(np.zeros((50, 50, 3), np.uint8))
        assert type(result) is Result
        assert len(result.to_dict()["probabilities"]) == 12
        assert result.draw().size == (50, 50)


def test_results_are_said_by_conf_alone(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert result_type("dogs") is ClassResult
    assert read_spec(exported(classifier)).keys().isdisjoint({"_result_", "_target_"})
    with pytest.raises(UserError, match="unknown setting"):
        load_config(["task._result_=tasks.engine.results.Result"])
    for name in ("os.system", "tasks.engine.results.copy.deepcopy", "tasks.engine.results.copy"):
        monkeypatch.setattr("tasks.engine.options.target", lambda *_, name=name: name)
        with pytest.raises((UserError, ImportError)):
            result_type("dogs")
