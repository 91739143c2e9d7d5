"""The drawn dogs, the layout of Stanford Dogs, and errors for wrong layouts."""

import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from backbones.errors import UserError
from data.demo.breeds import BREEDS
from data.demo.dogs import write_dogs
from data.dogs import DogsData
from data.folders import FoldersData


@pytest.fixture
def copied(dogs: Path, tmp_path: Path) -> Path:
    """A copy of the demo to damage."""
    return Path(shutil.copytree(dogs, tmp_path / "dogs"))


def data(root: Path, **settings: Any) -> DogsData:
    return DogsData(str(root), 96, workers=0, web_labels="web_labels.json", **settings)


def test_the_layout_is_that_of_stanford(dogs: Path) -> None:
    content = loadmat(dogs / "train_list.mat")
    assert content["file_list"].shape == (12 * 3, 1)
    name = content["file_list"][0, 0].item()
    assert content["annotation_list"][0, 0].item() == name.removesuffix(".jpg")
    assert sorted(set(content["labels"].ravel())) == list(range(1, 13))
    width, height = Image.open(dogs / "Images" / name).size
    root = ElementTree.parse(dogs / "Annotation" / name.removesuffix(".jpg")).getroot()
    assert (root.findtext("size/width"), root.findtext("size/height")) == (str(width), str(height))
    box = [int(root.findtext(f"object/bndbox/{k}", "")) for k in ("xmin", "ymin", "xmax", "ymax")]
    assert 0 <= box[0] < box[2] <= width
    assert 0 <= box[1] < box[3] <= height


def test_images_depend_on_the_seed_alone(dogs: Path, tmp_path: Path) -> None:
    write_dogs(tmp_path / "again", train=3, test=2, web=4, copies=3)
    files = sorted(p.relative_to(dogs) for p in dogs.rglob("*.jpg"))
    assert len(files) == 12 * (3 + 2 + 4) + 3
    for name in files[::17]:
        assert (dogs / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_splits_and_labels(dogs: Path) -> None:
    found = data(dogs)
    assert found.labels[0] == "Chihuahua"
    assert len(found.labels) == 12
    train, test = found.samples("train"), found.samples("test")
    assert not {s.path for s in train} & {s.path for s in test}
    assert Counter(s.label for s in train) == dict.fromkeys(range(12), 3)
    for sample in (*train, *test):
        assert sample.path.parent.name == found.folders[sample.label]
    web = data(dogs, train="web").samples("train")
    truth = json.loads((dogs / "web_truth.json").read_text())
    assert {str(s.path.relative_to(dogs)) for s in web} == set(truth)
    assert data(dogs, train="web").samples("val") == test


def test_boxes_confine_the_view(dogs: Path) -> None:
    boxed = data(dogs, box=True)
    sample = boxed.samples("test")[0]
    assert sample.box is not None
    train = boxed.build_dataset("train")
    x0, y0, x1, y1 = train.chooser(sample.box)(*Image.open(sample.path).size[::-1])
    assert sample.box[0] <= x0 < x1 <= sample.box[2]
    assert sample.box[1] <= y0 < y1 <= sample.box[3]


def test_a_broken_annotation_means_the_whole_image(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = data(copied).samples("test")[0].path.relative_to(copied / "Images").with_suffix("")
    (copied / "Annotation" / name).write_text("<annotation>")
    assert data(copied, box=True).samples("test")[0].box is None
    assert f"{name}: no box" in caplog.text


def test_what_is_left_out_is_not_trained_on(dogs: Path) -> None:
    found = data(dogs, train="web")
    paths = [s.path for s in found.samples("train")]
    found.leave_out(paths[:5])
    assert [s.path for s in found.samples("train")] == paths[5:]
    assert found.num_images("train") == len(paths) - 5


def test_each_of_several_processes_has_a_batch(dogs: Path) -> None:
    """One process has 18 of the 36 images: less than a batch of 30, which is one batch then."""
    found: Any = data(dogs, batch_size=30)
    found.trainer = SimpleNamespace(global_rank=1, world_size=2, accelerator=None)
    assert [len(batch.images) for batch in found.loader("train")] == [18]
    found.batch_size = 16
    assert [len(batch.images) for batch in found.loader("train")] == [16]


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_list_of_images_that_are_not_there(copied: Path) -> None:
    count = len(data(copied).samples("train"))
    data(copied).samples("train")[0].path.unlink()
    assert len(data(copied, max_bad=0.05).samples("train")) == count  # a few are counted as unreadable later
    with pytest.raises(UserError, match=rf"1 of {count} images of the train list are not there: .*\.jpg, \.\.\."):
        data(copied).check()


@pytest.mark.parametrize("content", [b"", b"not a list", b"MATLAB 5.0 MAT-file" + bytes(300)])
def test_a_mat_that_is_not_one(content: bytes, copied: Path) -> None:
    (copied / "train_list.mat").write_bytes(content)
    with pytest.raises(UserError, match=r"train_list.mat (is not a .mat list|has no variable)") as error:
        data(copied).samples("train")
    one_line(error)


def test_a_mat_of_something_else(copied: Path) -> None:
    savemat(copied / "test_list.mat", {"x": np.zeros(3)})
    with pytest.raises(UserError, match="has no variable 'file_list'"):
        data(copied).samples("test")
    (copied / "test_list.mat").unlink()
    with pytest.raises(UserError, match=r"there is no list .*test_list.mat; it is in lists.tar"):
        data(copied).samples("test")


def test_label_maps(copied: Path) -> None:
    path = copied / "web_labels.json"
    meaning = json.loads(path.read_text())
    path.write_text(json.dumps(meaning | {"pug": "n999-Unicorn"}))
    with pytest.raises(UserError, match=r"web_labels.json names 'n999-Unicorn', but Images has no such class") as error:
        data(copied, train="web").samples("train")
    one_line(error)
    del meaning["pug"]
    path.write_text(json.dumps(meaning))
    with pytest.raises(UserError, match="the folder 'pug' of Web is not in it"):
        data(copied, train="web").samples("train")
    path.write_text("{")
    with pytest.raises(UserError, match="is not valid JSON"):
        data(copied, train="web").samples("train")


@pytest.mark.parametrize("name", ["{}/../../../secret.jpg", "{}/../../Images/../../secret.jpg"])
def test_a_list_names_no_file_outside(name: str, copied: Path) -> None:
    """Not even where missing files are allowed."""
    (copied.parent / "secret.jpg").write_bytes(next(copied.rglob("*.jpg")).read_bytes())
    content = loadmat(copied / "test_list.mat")
    content["file_list"][0, 0] = np.array([name.format(content["file_list"][0, 0].item().split("/")[0])])
    savemat(copied / "test_list.mat", {key: content[key] for key in ("file_list", "annotation_list", "labels")})
    with pytest.raises(UserError, match=r"the test list names .*secret\.jpg"):
        data(copied, max_bad=1.0).samples("test")


def folders(root: Path, *names: str) -> FoldersData:
    for split in ("train", "val"):
        for name in names:
            (root / split / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40)).save(root / split / name / "a.jpg")
    return FoldersData(str(root), 32, train="train", val="val", workers=0)


def test_folders(tmp_path: Path) -> None:
    found = folders(tmp_path, "cat", "dog")
    (tmp_path / "val" / "dog" / "deeper").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "val" / "dog" / "deeper" / "b.PNG")
    (tmp_path / "val" / "dog" / "notes.txt").write_text("no image")
    assert found.labels == ["cat", "dog"]
    assert [s.label for s in found.samples("val")] == [0, 1, 1]
    assert found.samples("test") == found.samples("val")


def test_folders_that_cannot_be_trained_on(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train has 1 class folders \(cat\) with images; at least 2 are needed"):
        _ = folders(tmp_path, "cat").labels
    found = folders(tmp_path, "cat", "dog")
    (tmp_path / "train" / "dog" / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"train has 1 class folders \(cat\) with images; at least 2"):
        _ = found.labels
    found = folders(tmp_path, "cat", "dog")
    (tmp_path / "val" / "dog").rename(tmp_path / "val" / "wolf")
    with pytest.raises(UserError, match="val has a class that train lacks: wolf"):
        found.samples("val")


def test_breeds_differ_in_what_is_drawn() -> None:
    assert len({b[1:] for b in BREEDS}) == len(BREEDS) == 12
