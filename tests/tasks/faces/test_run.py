"""Attributes and embeddings through the commands: runs, students and their teachers, comparisons, bad input."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from backbones.errors import UserError
from backbones.mobilenet_v1 import MobileNetV1, fold_norms
from data.classification import ImageSet, Sample, collate
from data.faces import CelebAData
from tasks.classification.model import Classifier
from tasks.compare.pair import compare_pair
from tasks.distill.cache import Cached
from tasks.distill.load import load_teacher, teacher_labels
from tasks.distill.teacher import Network
from tasks.embedding.model import EmbeddingNet
from tasks.engine.checkpoint import load_checkpoint
from tasks.engine.config import load_config
from tasks.engine.start import saved_data
from tasks.engine.task import restore
from tasks.engine.train import evaluate
from tasks.export.__main__ import execute as export
from tasks.faces.model import AttributeNet
from tasks.faces.task import FacesTask
from tasks.predict import main as predict_main
from tasks.run import execute
from tests.conftest import EARTH, untrained

ANY_DATA = (
    *("backbone.alpha=0.25", "task.resolution=32", "data.batch_size=8", "data.workers=0"),
    *("trainer.log_every=1", "trainer.max_epochs=1", "trainer.precision=32", "trainer.progress_bar=false"),
)


def train(task: str, faces: Path, runs: Path, name: str, *more: str) -> Path:
    place = (f"data.root={faces}", f"paths.runs={runs}", f"name={name}")
    assert execute([f"task={task}", *ANY_DATA, *place, *more])["state"] == "finished"
    return runs / task / name


def predict(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Runs the command in this process."""
    monkeypatch.setattr("sys.argv", ["predict", *arguments])
    predict_main()


@pytest.fixture(scope="module")
def attributes(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train("faces", faces, tmp_path_factory.mktemp("runs"), "teacher")


@pytest.fixture(scope="module")
def embedding(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train("embedding", faces, tmp_path_factory.mktemp("runs"), "teacher", "task.dim=16")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("places")
    return untrained(root / "run", "task=geo", f"paths.data={root}", *EARTH)


def metrics(run: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((run / "metrics.json").read_text())["metrics"]
    return found


def test_attributes_leave_measures_and_images(attributes: Path) -> None:
    found = metrics(attributes)
    each = [v for k, v in found.items() if k.startswith("ap/")]
    assert found["primary"] == found["map"] == pytest.approx(np.mean(each))
    assert {"accuracy", "calibration_error"} <= found.keys()
    events = EventAccumulator(str(attributes)).Reload().Tags()
    assert set(events["images"]) == {"predictions", *(f"worst/{i}" for i in range(1, 5))}
    assert Image.open(attributes / "worst-1.png").width > 600


def test_predictions_are_scores_and_test_mode_measures(
    attributes: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = faces / "img_align_celeba" / "000003.jpg"
    predict(monkeypatch, f"ckpt={attributes}", f"input={image}", f"output={tmp_path}")
    (row,) = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert len(row["attributes"]) == 12
    assert all(0 <= a["score"] <= 1 for a in row["attributes"])
    assert Image.open(tmp_path / "000003.jpg.jpg").height >= 240
    predict(monkeypatch, f"ckpt={attributes}", "mode=test")
    assert "ap/Smiling" in capsys.readouterr().out


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_a_student_learns_alike_with_and_without_the_cache(attributes: Path, faces: Path, tmp_path: Path) -> None:
    """Without labels, a student ends with the same weights whether it learns from the teacher or the cache."""
    common = (
        "data.labelled_fraction=0",
        "data.unlabelled=keep",
        "data.views=2",
        "trainer.max_epochs=2",
        "logger.images=0",
    )
    cached = (f"teacher={attributes}", f"distill.cache={tmp_path / 'cache'}", *common)
    first = train("faces", faces, tmp_path, "first", *cached)
    (file,) = (tmp_path / "cache").iterdir()
    before = file.read_bytes()
    again = train("faces", faces, tmp_path, "again", *cached)
    plain = train("faces", faces, tmp_path, "plain", f"teacher={attributes}", *common)
    assert file.read_bytes()[:128] == before[:128]
    assert np.load(file).shape == (48, 2, 13)
    wanted = weights(first)
    assert not any("teacher" in name for name in wanted)
    for other in (again, plain):
        found = weights(other)
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_table_teaches_what_its_network_would(attributes: Path, faces: Path, tmp_path: Path) -> None:
    """The columns of the table come in another order; the images are a folder without labels."""
    module = restore(load_checkpoint(attributes))
    assert isinstance(module, FacesTask)
    files = sorted((faces / "lfw").rglob("*.jpg"))
    names = module.labels[::-1]
    with (tmp_path / "soft.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["file", *names])
        for path in files:
            batch = collate([ImageSet([Sample(path, 0)], 32, center_crop=1.0)[0]])
            (scores,) = module.named_outputs(batch.images)["probabilities"].tolist()
            writer.writerow([path.name, *scores[::-1]])
    student = AttributeNet(MobileNetV1(0.25), 12)
    teacher = load_teacher(str(tmp_path / "soft.csv"), module.labels, student, 32)
    found = teacher(batch.images, batch)
    with torch.no_grad():
        expected = module.model(module.model.preprocess(batch.images))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)

    place = (f"data.root={faces / 'lfw'}", f"paths.runs={tmp_path}", "name=folder", "logger.images=0")
    table = f"teacher={tmp_path / 'soft.csv'}"
    assert execute(["task=faces", "data=face_folder", *ANY_DATA, *place, table])["state"] == "finished"
    run = tmp_path / "faces" / "folder"
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert content["suite"]["labels"] == names
    assert 0 < metrics(run)["accuracy"] <= 1  # agreement with the teacher


def test_a_student_of_unlabelled_images_is_measured_by_its_teacher(
    attributes: Path, faces: Path, tmp_path: Path
) -> None:
    """Also outside of training, where the teacher is not loaded yet."""
    images = (f"data.root={faces / 'people'}", "data.val=0.5")
    place = (f"paths.runs={tmp_path}", "name=student", f"teacher={attributes}")
    execute(["task=faces", "data=face_folder", *ANY_DATA, *images, *place])
    student = tmp_path / "faces" / "student"
    with pytest.raises(UserError, match="is used only if you name it: teacher="):
        export([f"ckpt={student}"])
    folder = export([f"ckpt={student}", f"teacher={attributes}", "format=torch"])
    found = json.loads((folder / "model.json").read_text())["metrics"]
    assert found["images"] > 8
    assert found["before"]["map"] == pytest.approx(found["after"]["map"], abs=0.01)


def test_labels_and_a_teacher_together(attributes: Path, faces: Path, tmp_path: Path) -> None:
    more = (
        f"teacher={attributes}",
        "distill.teacher_weight=0.5",
        "data.labelled_fraction=0.5",
        "data.unlabelled=keep",
        "data.unlabelled_folder=lfw",
    )
    run = train("faces", faces, tmp_path, "mixed", *more, "logger.images=0")
    tags = EventAccumulator(str(run)).Reload().Tags()["scalars"]
    assert {"train/teacher_loss", "train/attribute_loss"} <= set(tags)


def test_embeddings_leave_measures_and_images(embedding: Path, faces: Path) -> None:
    found = metrics(embedding)
    assert {"tar_far1e-1", "tar_far1e-2", "auc", "eer", "recall_1", "recall_5", "lfw_accuracy"} <= found.keys()
    assert found["primary"] == found["tar_far1e-2"]
    assert set(EventAccumulator(str(embedding)).Reload().Tags()["images"]) == {"roc", "hard_pairs"}
    content = torch.load(embedding / "checkpoints" / "best.ckpt", weights_only=True)
    assert "Drawn" not in str(content["suite"]["labels"])  # numbers, no names


def test_an_image_is_compared_with_a_folder(
    embedding: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = faces / "lfw" / "Drawn_017" / "Drawn_017_0001.jpg"
    predict(monkeypatch, f"ckpt={embedding}", f"input={image}", f"reference={faces / 'lfw'}", f"output={tmp_path}")
    (row,) = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    best = row["matches"][0]
    assert (best["file"], best["similarity"]) == (str(image), pytest.approx(1, abs=1e-3))
    assert np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-3)
    assert len(row["matches"]) == 5
    assert f"1.000 {image}" in capsys.readouterr().out.replace("\n", "")


def test_other_people_can_be_tested_on(
    embedding: Path, faces: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(monkeypatch, f"ckpt={embedding}", "mode=test", f"root={faces}")
    assert "lfw_accuracy" in capsys.readouterr().out


def test_pairs_of_an_unreadable_image_are_left_out(
    embedding: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = Path(shutil.copytree(faces, tmp_path / "faces"))
    (root / "lfw" / "Drawn_018" / "Drawn_018_0002.jpg").write_bytes(b"torn")
    module = restore(load_checkpoint(embedding))
    found = evaluate(module, saved_data(module.config, str(root), max_bad=0.2))
    assert 0 <= found["lfw_accuracy"] <= 1
    assert "pairs of pairs.txt have unreadable images" in caplog.text


def test_students_of_an_embedding(embedding: Path, faces: Path, tmp_path: Path) -> None:
    """Distilled on images without identities; and by triplets, beside the teacher."""
    alone = ("data=identities", "data.train=img_align_celeba", "data.val=lfw", f"data.root={faces}")
    settings = [*alone, *ANY_DATA, f"paths.runs={tmp_path}", "name=alone", f"teacher={embedding}", "task.dim=16"]
    assert execute(["task=embedding", *settings])["state"] == "finished"
    more = ("task.loss=triplet", "data.images_per_person=2", "distill.teacher_weight=0.5", f"teacher={embedding}")
    run = train("embedding", faces, tmp_path, "both", *more, "task.dim=16")
    tags = EventAccumulator(str(run)).Reload().Tags()["scalars"]
    assert {"train/teacher_loss", "train/triplet_loss"} <= set(tags)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("task=embedding", "task.loss=triplet"), r"set data\.images_per_person"),
        (("task=embedding", "teacher={embedding}"), r"of size 16, the student of size 128; set task\.dim=16"),
        (("task=embedding", "teacher={attributes}"), "whose outputs are not embedding"),
        (("task=embedding", "data.train=img_align_celeba"), "need a teacher and"),
        (("task=faces", "teacher={embedding}"), "whose outputs are not attributes"),
        (("task=faces", "teacher={places}"), "is of task=geo, whose outputs are not attributes"),
        (("task=faces", "data.labelled_fraction=0", "data.unlabelled=keep"), "no training image has a label: name a"),
        (("task=faces", "teacher={attributes}", "distill.cache=cache"), r"set data\.views"),
    ],
)
def test_settings_that_do_not_go_together(
    more: tuple[str, ...], words: str, attributes: Path, embedding: Path, places: Path, faces: Path, tmp_path: Path
) -> None:
    given = [m.format(attributes=attributes, embedding=embedding, places=places) for m in more]
    with pytest.raises(UserError, match=words) as error:
        execute([*given, *ANY_DATA, f"data.root={faces}", f"paths.runs={tmp_path}"])
    assert "\n" not in str(error.value)


def test_tables_that_cannot_teach(faces: Path, tmp_path: Path) -> None:
    path, student = tmp_path / "t.csv", AttributeNet(MobileNetV1(0.25), 2)
    for content, words in (
        ("file,a,c\nx.jpg,0.5,0.5\n", "has no column b"),
        ("file,a,b\nx.jpg,0.5,2\n", "should hold probabilities, from 0 to 1; it has 2"),
        ("file,a,b\nx.jpg,0.5,0.5\nx.jpg,0.5,0.5\n", r"has two rows for x\.jpg"),
        ("file,a,b\nx.jpg,0.5\ny.jpg,1,1\n", "cannot be read as a table"),
        ("file,a,b\nx.jpg,0.5\n", "names 2 columns and has 1"),
        ("file,a,b\n", "should have a row of outputs for each of its 0 images"),
        ("", "cannot be read as a table"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=words) as error:
            load_teacher(str(path), ["a", "b"], student, 32)
        assert "\n" not in str(error.value)
    few = "should have a row of outputs for each of its 1 images"
    for shape, words in (((1, 3), "has 3 attributes, the data has 2"), ((1,), few), ((3, 2), few), ((), few)):
        np.savez(tmp_path / "t.npz", files=["x.jpg"], outputs=np.full(shape, 0.5, np.float32))
        with pytest.raises(UserError, match=words):
            load_teacher(str(tmp_path / "t.npz"), ["a", "b"], student, 32)
    path.write_text("file,a,b\nx.jpg,0.5,0.25\n")
    teacher = load_teacher(str(path), ["a", "b"], student, 32)
    image = collate([ImageSet([Sample(faces / "img_align_celeba" / "000001.jpg", 0)], 32)[0]])
    with pytest.raises(UserError, match=r"has no row for .*000001\.jpg"):
        teacher(image.images, image)
    labels = CelebAData(str(faces), 32).labels  # each training image needs a row, before the first step
    path.write_text(",".join(["file", *labels]) + "\n" + ",".join(["000001.jpg", *("0.5" for _ in labels)]))
    with pytest.raises(UserError, match=r"has no row for .*0000\d\d\.jpg"):
        execute(["task=faces", f"teacher={path}", *ANY_DATA, f"data.root={faces}", f"paths.runs={tmp_path}"])
    assert not (tmp_path / "faces").exists()


def onnx_file(network: torch.nn.Module, path: Path, side: int) -> str:
    example, axes = (torch.zeros(2, 3, side, side),), {"x": {0: "batch"}}
    torch.onnx.export(network.eval(), example, path, dynamo=False, input_names=["x"], dynamic_axes=axes)
    return str(path)


def test_a_teacher_of_another_size_and_normalization(tmp_path: Path) -> None:
    """It sees the student's view resized to its own size, normalized as specified."""
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    network = fold_norms(EmbeddingNet(MobileNetV1(0.25, normalization=imagenet), 8))
    source, student = onnx_file(network, tmp_path / "t.onnx", 64), EmbeddingNet(MobileNetV1(0.25), 8)
    with pytest.raises(UserError, match="does not say how images are normalized"):
        load_teacher(source, [], student, 32)
    images = torch.randint(0, 256, (2, 3, 32, 32)).float()
    large = torch.nn.functional.interpolate(images, (64, 64), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = network(network.preprocess(large))
    found = load_teacher(source, [], student, 32, "imagenet")(images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(load_teacher(source, [], student, 32, "half")(images), expected, atol=1e-2)


def test_a_teacher_with_another_number_of_outputs(tmp_path: Path) -> None:
    source = onnx_file(AttributeNet(MobileNetV1(0.25), 3), tmp_path / "t.onnx", 32)
    with pytest.raises(UserError, match="has 3 attributes, the data has 2"):
        load_teacher(source, ["a", "b"], AttributeNet(MobileNetV1(0.25), 2), 32, "half")


def test_teachers_that_cannot_be_asked(attributes: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    source = tmp_path / "t.onnx"  # of float64 input
    torch.onnx.export(torch.nn.Flatten(), (torch.zeros(2, 3, 32, 32).double(),), source, dynamo=False)
    with pytest.raises(UserError, match=r"t\.onnx does not accept 32 pixels: ") as error:
        load_teacher(str(source), ["a", "b"], AttributeNet(MobileNetV1(0.25), 2), 32, "half")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"t\.onnx does not name its outputs; set data\.attributes=\[names\]"):
        teacher_labels(str(source))
    folder = export([f"ckpt={attributes}", "format=torch", "part=backbone", f"output={tmp_path}"])
    with pytest.raises(UserError, match="is a backbone without outputs"):
        teacher_labels(str(folder / "backbone.safetensors"))


def test_classification_can_keep_its_teacher_too(faces: Path, tmp_path: Path) -> None:
    """The teacher is asked once for each view, and another run reuses the file; another teacher gets its own."""
    samples = [Sample(p, 0) for p in sorted((faces / "img_align_celeba").iterdir())[:6]]
    dataset = ImageSet(samples, 32, min_scale=0.5, flip=True, views=2)
    network = Classifier(MobileNetV1(0.25), 4).eval()
    student = Classifier(MobileNetV1(0.25), 4)
    asked = []

    def outputs(images: torch.Tensor) -> torch.Tensor:
        asked.append(len(images))
        return network(network.preprocess(images))

    teacher = Cached(Network(outputs, "", network), tmp_path, dataset, 4)
    batches = [collate([dataset[i] for i in range(6)]) for _ in range(12)]
    for batch in batches:
        with torch.no_grad():
            expected = network(network.preprocess(batch.images))
        with torch.autocast("cpu", torch.bfloat16):  # as in a run of lower precision
            torch.testing.assert_close(teacher(batch.images, batch), expected, rtol=1e-4, atol=1e-4)
    assert sum(asked) == 12
    again = Cached(Network(outputs, "", network), tmp_path, dataset, 4)
    again(batches[0].images, batches[0])
    assert sum(asked) == 12
    other = Cached(Network(outputs, "", student), tmp_path, dataset, 4)
    assert other.path != teacher.path
    teacher.path.unlink()
    (left := tmp_path / f".{teacher.path.stem}.1.part").write_bytes(b"of a killed process")
    Cached(Network(outputs, "", network), tmp_path, dataset, 4)
    assert not left.exists()
    teacher.path.write_bytes(b"torn")
    with pytest.raises(UserError, match="is damaged; delete it"):
        Cached(Network(outputs, "", network), tmp_path, dataset, 4)


def test_mixed_images_have_no_answers_on_disk(tmp_path: Path, dogs: Path) -> None:
    data = ("data=folders", f"data.root={dogs}", "data.train=Images", "data.val=Images")
    settings = ["task=classification", *data, "task.cutmix=1"]
    names = sorted(p.name for p in (dogs / "Images").iterdir())
    rows = [[p.name, *([1 / 12] * 12)] for p in (dogs / "Images").rglob("*.jpg")]
    with (tmp_path / "t.csv").open("w") as file:
        csv.writer(file).writerows([["file", *names], *rows])
    table = f"teacher={tmp_path / 't.csv'}"
    with pytest.raises(UserError, match="has no outputs for mixed images"):
        execute([*settings, *ANY_DATA, table, f"paths.runs={tmp_path}"])
    settings[-1] = "task.cutmix=0"
    assert execute([*settings, *ANY_DATA, table, f"paths.runs={tmp_path}", "logger.images=0"])["state"] == "finished"


def test_attributes_compare_no_images(
    attributes: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = faces / "lfw"
    with pytest.raises(SystemExit) as error:
        predict(monkeypatch, f"ckpt={attributes}", f"input={folder}", f"reference={folder}", f"output={tmp_path}")
    assert error.value.code == 2
    assert "task=faces does not compare images; leave out reference" in capsys.readouterr().err


def test_embeddings_of_other_people_are_compared(embedding: Path, faces: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(faces, tmp_path / "data"))
    shutil.rmtree(min((root / "people").iterdir()))
    data = ("data=identities", "data.train=people", "data.val=lfw", f"data.root={root}")
    other = untrained(tmp_path / "other", "task=embedding", *ANY_DATA, *data)
    a, b = (load_checkpoint(run)["suite"]["labels"] for run in (embedding, other))
    assert a != b
    compare_pair(load_config([f"a={embedding}", f"b={other}", f"output={tmp_path}", "images=2"], "compare"))
    assert Image.open(tmp_path / "pair.png").width == 6 * 306 + 6
