"""Detection data as labelling tools export them, and as people arrange them."""

import shlex
from pathlib import Path

import pytest

from backbones.errors import UserError
from data.layouts import recognize
from tests.data.detection_sets import BOX, CLASSES, HEADER, coco, names, photos, read, table, txts, yolo_images_train


@pytest.mark.parametrize(
    ("images", "labels"), [("images/{}", "labels/{}"), ("{}", "{}"), ("images/{}", "images/{}"), ("{}", "{}/labels")]
)
def test_yolo_in_a_folder_for_each_scene(images: str, labels: str, tmp_path: Path) -> None:
    for scene in ("day", "night"):
        photos(tmp_path / images.format(scene), names(scene, 10))
        txts(tmp_path / labels.format(scene), names(scene, 10))
    assert recognize(tmp_path, "_detection").option == "yolo"
    data = read(tmp_path)
    assert [len(data.records(split)) for split in ("train", "val")] == [16, 4]
    assert all(r.boxes.tolist() == [pytest.approx(BOX)] for r in data.records("train"))


def test_a_folder_without_labels_beside_scenes_is_no_background(tmp_path: Path) -> None:
    for scene in ("day", "night"):
        photos(tmp_path / scene, names(scene, 10))
    txts(tmp_path / "day", names("day", 10))
    with pytest.raises(UserError, match=r"it has 20 images in day, night, with 10 \.txt files"):
        recognize(tmp_path, "_detection")


@pytest.mark.parametrize("name", ["boxes.csv", "boxes.tsv"])
def test_a_table_with_tabs(name: str, tmp_path: Path) -> None:
    photos(tmp_path, every := names("a", 20))
    table(tmp_path / name, tmp_path, every)
    (tmp_path / name).write_text((tmp_path / name).read_text().replace(",", "\t"))
    data = read(tmp_path)
    assert data.labels == CLASSES
    assert all(r.boxes.tolist() == [BOX] for r in data.records("train"))


@pytest.mark.parametrize("header", ["image,label,x,y,width,height", "file,class,x,y,w,h"])
def test_a_table_without_corners(header: str, tmp_path: Path) -> None:
    """It is one of boxes, not of classes; whether x is the left or the centre is not known."""
    photos(tmp_path, every := names("a", 4))
    table(tmp_path / "boxes.csv", tmp_path, every, (HEADER[0], HEADER[3], *HEADER[4:]))
    rows = (tmp_path / "boxes.csv").read_text().splitlines()[1:]
    (tmp_path / "boxes.csv").write_text("\n".join([header, *rows]))
    with pytest.raises(UserError, match=r"boxes\.csv has no column of xmin \(one of .*\); it has .*, x, y, ") as error:
        read(tmp_path).check()
    assert "corners in pixels" in str(error.value)


def test_coco_in_annotations_of_each_split(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("valid", 4)):
        photos(tmp_path / split / "images", names("a", count))
        coco(tmp_path / split / "annotations" / "instances.json", tmp_path / split / "images", names("a", count))
    data = read(tmp_path)
    assert [len(data.records(split)) for split in ("train", "val")] == [6, 4]
    assert all(r.path.parent.parent.name == "train" for r in data.records("train"))
    data.check()


@pytest.mark.parametrize("empty", ["", "\n"])
def test_many_images_without_objects(empty: str, tmp_path: Path) -> None:
    photos(tmp_path / "images", [*names("a", 120), *names("b", 4)])
    txts(tmp_path / "labels", names("a", 120), empty)
    txts(tmp_path / "labels", names("b", 4))
    data = read(tmp_path)
    boxes = {r.path.stem: len(r.boxes) for split in ("train", "val") for r in data.records(split)}
    assert sum(boxes.values()) == 4
    assert all(boxes[name] == 1 for name in names("b", 4))


@pytest.mark.parametrize("inside", ["My Project.v1i.yolov8", "VOCtrainval/VOCdevkit/VOC2012"])
def test_a_folder_around_the_data_names_it(inside: str, tmp_path: Path) -> None:
    yolo_images_train(tmp_path / inside)
    with pytest.raises(UserError) as error:
        recognize(tmp_path, "_detection")
    where = shlex.quote(str(tmp_path / inside))
    assert str(error.value) == f"{tmp_path} has its data further down: give data.root={where}"
