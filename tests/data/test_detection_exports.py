"""Detection data as labelling tools export them, and as people arrange them."""

import shlex
import unicodedata
from pathlib import Path
from typing import Literal

import pytest

from backbones.errors import UserError
from data.detection import DetectionData
from data.layouts import recognize
from tasks.inspect import contents
from tests.data.detection_sets import (
    BOX,
    CLASSES,
    HEADER,
    coco,
    names,
    photos,
    read,
    table,
    txts,
    xmls,
    yolo_images_train,
)

Form = Literal["NFC", "NFD"]


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


def test_a_table_without_corners_beside_other_labels(tmp_path: Path) -> None:
    photos(tmp_path, every := names("a", 4))
    coco(tmp_path / "train.json", tmp_path, every)
    (tmp_path / "stats.csv").write_text("image,label,x,y,width,height\n")
    assert read(tmp_path).labels == CLASSES


@pytest.mark.parametrize("place", ["images/{}/city/drive", "{}/images/drive"])
def test_yolo_far_below_the_folders_of_data_yaml(place: str, tmp_path: Path) -> None:
    for split in ("train", "val"):
        photos(tmp_path / place.format(split), every := names(split, 5))
        txts(tmp_path / place.format(split).replace("images", "labels"), every)
    path = place.partition("/images")[0].replace("/city/drive", "")
    content = f"train: {path.format('train')}\nval: {path.format('val')}\nnames: [cat, dog]"
    (tmp_path / "data.yaml").write_text(content)
    data = read(tmp_path)
    assert [len(data.records(split)) for split in ("train", "val")] == [5, 5]


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


@pytest.mark.parametrize("lists", [("Train", "Validation"), ("TRAINVAL", "Test")])
@pytest.mark.parametrize("line", ["{}", "{}.jpg", "JPEGImages/{}.png", "data\\JPEGImages\\{}.jpg 1", "{} -1"])
def test_lists_of_voc_as_tools_write_them(lists: tuple[str, str], line: str, tmp_path: Path) -> None:
    photos(tmp_path / "JPEGImages", every := names("a b", 10))
    xmls(tmp_path / "Annotations", every)
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    for name, own in zip(lists, (every[:7], every[7:]), strict=True):
        (tmp_path / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(map(line.format, own)))
    data = read(tmp_path)
    assert [len(data.records(split)) for split in ("train", "val")] == [7, 3]


def names_in(root: Path, place: str, **classes: str) -> DetectionData:
    for split in ("train", "valid"):
        photos(root / "images" / split, names(split, 4))
        txts(root / "labels" / split, names(split, 4))
    for split, content in classes.items():
        (root / place.format(split)).write_text(content)
    return read(root)


@pytest.mark.parametrize("place", ["labels/{}/classes.txt", "labels/{}/_darknet.labels"])
def test_class_names_beside_the_labels_of_a_split(place: str, tmp_path: Path) -> None:
    assert names_in(tmp_path, place, valid="cat\n", train="cat\ndog\n").labels == CLASSES
    with pytest.raises(UserError, match=r"train.* and .*valid.* have different class names: keep the one that"):
        names_in(tmp_path, place, valid="dog\n").check()


def test_class_names_of_roboflows_darknet(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        photos(tmp_path / split, names(split, 4))
        txts(tmp_path / split, names(split, 4))
        (tmp_path / split / "_darknet.labels").write_text("cat\ndog\n")
    assert read(tmp_path).labels == CLASSES


@pytest.mark.parametrize("names", ["[yes, no]", "{0: on, 1: off}", "[cat, null]"])
def test_class_names_that_yaml_changes(names: str, tmp_path: Path) -> None:
    yolo_images_train(tmp_path)
    (tmp_path / "data.yaml").write_text(f"names: {names}")
    with pytest.raises(UserError, match=r"YAML reads a class name as .*: write names such as yes and no in quotes"):
        read(tmp_path).check()


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_yolo_in_two_unicode_forms(forms: tuple[Form, Form], tmp_path: Path) -> None:
    images, labels = ([unicodedata.normalize(form, f"größe{i}") for i in range(20)] for form in forms)
    photos(tmp_path / "images", images)
    txts(tmp_path / "labels", labels)
    data = read(tmp_path)
    assert all(len(r.boxes) == 1 for split in ("train", "val") for r in data.records(split))


def test_lists_whose_images_are_gone(tmp_path: Path) -> None:
    """Nothing can be reported; the error is the reader's."""
    photos(tmp_path / "images", every := names("a", 4))
    txts(tmp_path / "labels", every)
    (tmp_path / "train.txt").write_text("".join(f"elsewhere/b{name}.jpg\n" for name in every))
    with pytest.raises(
        UserError, match=r"train\.txt: left out 4 of 4 names without an image; the first is elsewhere/ba0"
    ):
        contents.read(read(tmp_path))


def test_an_empty_val_of_yolo_is_drawn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for place in ("images", "labels"):
        (tmp_path / "valid" / place).mkdir(parents=True)
    photos(tmp_path / "train" / "images", names("a", 20))
    txts(tmp_path / "train" / "labels", names("a", 20))
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnames: [cat, dog]\n")
    data = read(tmp_path)
    assert [len(data.records(split)) for split in ("train", "val")] == [16, 4]
    assert "val: ../valid/images is not there or has no images" in caplog.text


def test_a_broken_link_beside_images_stops_no_recognition(tmp_path: Path) -> None:
    photos(tmp_path, ["a0"])
    txts(tmp_path, ["a0"])
    (tmp_path / "a.txt").symlink_to("gone")
    assert recognize(tmp_path, "_detection").option == "yolo"
