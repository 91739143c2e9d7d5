"""Detection data given only by its folder: every layout is recognised, and read alike."""

from pathlib import Path

import pytest

from backbones.errors import UserError
from data.layouts import recognize
from tests.conftest import shared
from tests.data.detection_sets import BOX, CLASSES, DRAWN, LAYOUTS, kind, names, photos, read, txts


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_recognised_and_read(name: str, tmp_path: Path) -> None:
    option, splits, write = LAYOUTS[name]
    write(tmp_path)
    assert recognize(tmp_path, "_detection").option == option
    data = read(tmp_path)
    records = {split: data.records(split) for split in ("train", "val", "test")}
    assert {split: len(r) for split, r in records.items()} == {"test": splits["val"], **splits}
    named = data.labels == CLASSES
    assert named or data.labels == ["class0", "class1"]
    assert named == (name not in ("imagefolder_with_one_file",))
    for record in (r for split in records.values() for r in split):
        assert record.path.is_file()
        assert record.boxes.tolist() == [pytest.approx(BOX)]
        assert CLASSES[record.labels[0]] == kind(record.path.stem)
    train, val = ({r.path for r in records[split]} for split in ("train", "val"))
    assert not train & val
    if splits is DRAWN:
        assert "a random fifth for val (splits.json)" in data.choices
        assert {kind(path.stem) for path in val} == {*CLASSES}
        again = read(tmp_path)
        assert [r.path for r in again.records("val")] == [r.path for r in records["val"]]
    assert ("val is test" in data.choices) == (splits == {"train": 6, "val": 3})
    assert data.dataset("train")[0]["image"].shape == (3, 32, 32)
    data.check()


@pytest.mark.parametrize(
    ("name", "option", "counts", "labels"),
    [
        ("bccd", "voc", "205 train, 87 val, 72 test images, 4886 boxes of 3 classes", "Platelets"),
        ("raccoon", "voc", "160 train, 40 val images, 217 boxes of 1 class", "raccoon"),
        ("aquarium", "yolo", "448 train, 127 val, 63 test images, 4815 boxes of 7 classes", "fish"),
        ("cards", "voc", "148 train, 67 val images, 405 boxes of 6 classes", "ace"),
    ],
)
def test_sets_as_published(name: str, option: str, counts: str, labels: str, tmp_path: Path) -> None:
    for path in shared(f"data/{name}").iterdir():  # links, since reading may write into the folder
        (tmp_path / path.name).symlink_to(path)
    data = read(tmp_path)
    assert recognize(tmp_path, "_detection").option == option
    assert data.summary() == counts
    assert data.labels[0] == labels


def test_a_demo_that_is_drawn_is_what_it_is(scenes: Path) -> None:
    data = read(scenes)
    assert recognize(scenes, "_detection").option == "coco"
    boxes = sum(len(record.labels) for split in ("train", "val") for record in data.records(split))
    assert data.summary() == f"24 train, 8 val images, {boxes} boxes of 8 classes"


def test_names_among_many_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large folder is recognised by a sample of its files; the file of the names is found all the same."""
    monkeypatch.setattr("data.layouts.folder.SAMPLE", 2)
    many = names("a", 40)
    photos(tmp_path, many)
    txts(tmp_path, many)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    assert read(tmp_path).labels == CLASSES


def test_a_test_split_without_labels_that_is_listed(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        photos(tmp_path / split / "images", names(split, 4))
        if split != "test":
            txts(tmp_path / split / "labels", names(split, 4))
    lines = [f"{split}: {split}/images" for split in ("train", "val", "test")]
    (tmp_path / "data.yaml").write_text("\n".join([*lines, f"names: {CLASSES}"]))
    data = read(tmp_path)
    data.check()
    assert [r.path for r in data.records("test")] == [r.path for r in data.records("val")]


@pytest.mark.parametrize("name", ["voc_with_lists", "yolo_flat_with_classes_txt"])
def test_a_folder_that_lacks_a_class_can_be_evaluated(name: str, tmp_path: Path) -> None:
    """Its labels are those of the model; a class that the model lacks is refused."""
    LAYOUTS[name][2](tmp_path)
    data = read(tmp_path)
    before = [r.labels.tolist() for r in read(tmp_path).records("val")]
    data.use_labels(["bird", *CLASSES])
    assert data.labels == ["bird", *CLASSES]
    assert [r.labels.tolist() for r in data.records("val")] == [[label + 1 for label in own] for own in before]
    with pytest.raises(UserError, match="the checkpoint knows the classes"):
        read(tmp_path).use_labels(["bird", "dog"])
