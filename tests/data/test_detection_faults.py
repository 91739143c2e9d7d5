"""Faults in detection data are reported in one line, before a run begins."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from backbones.errors import UserError
from data.coco import read_coco
from data.detection import Record
from data.voc import VocData
from tasks.run import execute
from tests.data.detection_sets import (
    HEADER,
    coco,
    coco_images_train,
    names,
    photos,
    read,
    table,
    txts,
    voc_with_lists,
    voc_without_lists,
    xmls,
)


def yolo_set(root: Path) -> None:
    for split in ("train", "val"):
        photos(root / "images" / split, names(split, 4))
        txts(root / "labels" / split, names(split, 4))
    (root / "data.yaml").write_text("names: [cat, dog]")


def no_images(root: Path) -> None:
    (root / "notes.md").write_text("later")


def labels_alone(root: Path) -> None:
    xmls(root / "annotations", names("a", 4))


def images_alone(root: Path) -> None:
    photos(root / "images", names("a", 4))


def two_formats(root: Path) -> None:
    yolo_set(root)
    coco(root / "train.json", root / "images" / "train", names("train", 4))


def two_yamls(root: Path) -> None:
    yolo_set(root)
    (root / "coco8.yaml").write_text("names: [a, b]")


def class_beyond_names(root: Path) -> None:
    yolo_set(root)
    (root / "labels" / "val" / "val0.txt").write_text("7 0.5 0.5 0.1 0.1")


def split_without_labels(root: Path) -> None:
    yolo_set(root)
    for path in (root / "labels" / "val").iterdir():
        path.unlink()


def labelme(root: Path) -> None:
    photos(root, names("a", 4))
    for path in sorted(root.iterdir()):
        shapes = [{"label": "cat", "points": [[1, 2], [8, 9]], "shape_type": "rectangle"}]
        path.with_suffix(".json").write_text(json.dumps({"version": "5.4.1", "shapes": shapes, "imagePath": path.name}))


def cvat(root: Path) -> None:
    photos(root / "images", names("a", 4))
    (root / "annotations.xml").write_text('<?xml version="1.0"?>\n<annotations>\n<version>1.1</version></annotations>')


def heic(root: Path) -> None:
    for name in ("a.HEIC", "b.heic", "c.DNG"):
        (root / name).write_bytes(b"x")


def missing_column(root: Path) -> None:
    photos(root, names("a", 4))
    table(root / "boxes.csv", root, names("a", 4), HEADER[:-1])


def boxes_as_shares(root: Path) -> None:
    photos(root, names("a", 4))
    table(root / "boxes.csv", root, names("a", 4))
    text = (root / "boxes.csv").read_text()
    (root / "boxes.csv").write_text(text.replace("4.0,3.0,24.0,18.0", "0.1,0.1,0.6,1.0"))


def images_of_another_folder(root: Path) -> None:
    photos(root, names("a", 4))
    table(root / "boxes.csv", root, names("a", 4))
    for path in root.glob("a*"):
        path.rename(root / f"b{path.name}")


def two_coco_files(root: Path) -> None:
    photos(root, names("a", 4))
    for name in ("one", "two"):
        coco(root / f"{name}.json", root, names("a", 4))


def images_gone(root: Path) -> None:
    for split in ("train", "val"):
        photos(root / split, names(split, 4))
        coco(root / f"{split}.json", root / split, names(split, 4))
    for path in (root / "val").iterdir():
        path.rename(path.with_name(f"b{path.name}"))


def names_twice(root: Path) -> None:
    yolo_set(root)
    (root / "data.yaml").write_text("names: [cat, cat]")


@pytest.mark.parametrize(
    ("write", "more", "words"),
    [
        (no_images, (), "it has no images; give the folder that contains the images and their labels"),
        (labels_alone, (), "it has no images but 4 .xml files; give the folder that contains the images and their"),
        (images_alone, (), "it has 4 images in images, but no files of labels; boxes are read from COCO JSON, Pascal"),
        (labelme, (), "set: LabelMe's own format is not read: export the labels as COCO or YOLO"),
        (cvat, (), "set: CVAT's own format is not read: export the labels as COCO or YOLO"),
        (heic, (), "it has 2 .heic, 1 .dng files, which cannot be read: convert them to JPEG"),
        (two_formats, (), "can be read in several ways: choose data=coco (COCO) or data=yolo (YOLO)"),
        (two_yamls, (), "has coco8.yaml and data.yaml, both with class names: choose one with data=yolo data.yaml="),
        (class_beyond_names, (), "val0.txt has an object of class 7; the names are of 2 classes, 0 to 1"),
        (names_twice, (), "data.yaml has two classes of the name 'cat'"),
        (split_without_labels, (), "images/val has 4 images but no txt files of labels"),
        (missing_column, (), "boxes.csv has no column of ymax (one of ymax, y_max, y2, bottom); it has filename, "),
        (boxes_as_shares, (), "the boxes of the train split are normalised (0 to 1); they must be in pixels"),
        (images_of_another_folder, (), "boxes.csv names 4 images, of which none lies below"),
        (two_coco_files, (), "has one.json and two.json, both for train: choose one with data=coco data.train_json="),
        (images_gone, (), "none of the 4 images of the val split exist, such as "),
        (yolo_set, ("data.val=images/vall",), "there is no file or folder"),
        (voc_with_lists, ("data.val=vall",), "there is no list"),
        (coco_images_train, ("data=coco", "data.train_json=train.json", "data.val_json=no.json"), "no annotation file"),
        (
            coco_images_train,
            (*(f"data.{s}_json={s}.json" for s in ("train", "val")), "data.val_images=images/vall"),
            "data.val_images: there is no folder",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_wrong_is_said_before_a_run_begins(
    write: Callable[[Path], None], more: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    root, runs = tmp_path / "set", tmp_path / "runs"
    root.mkdir()
    write(root)
    with pytest.raises(UserError) as error:
        execute(["task=detection", f"data.root={root}", f"paths.runs={runs}", "data.workers=0", *more])
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not runs.exists()


def test_a_mistyped_root_is_not_drawn_into(tmp_path: Path) -> None:
    for more in ((), ("experiment=smoke",), ("task=dogs",), ("task=faces",), ("task=embedding",), ("task=geo",)):
        with pytest.raises(UserError, match="there is no folder"):
            execute([*more, f"data.root={tmp_path / 'no'}", f"paths.runs={tmp_path / 'runs'}"])
    assert not list(tmp_path.iterdir())


def test_what_is_left_out_is_counted_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    voc_with_lists(tmp_path)
    for i in range(3):
        (tmp_path / "Annotations" / f"train{i}.xml").unlink()
    (tmp_path / "Annotations" / "train3.xml").write_text("<annotation>")
    (tmp_path / "JPEGImages" / "train4.JPG").unlink()
    with caplog.at_level(logging.WARNING):
        assert [r.path.name for r in read(tmp_path).records("train")] == ["train5.png"]
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert lines[0].endswith("left out 3 of 6 names without an .xml file; the first is train0.xml")
    assert "left out 1 of 6 .xml files that cannot be read; the first is" in lines[1]
    assert lines[2].endswith("left out 1 of 6 .xml files without an image; the first is train4.xml")


def test_rows_that_are_no_objects_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    yolo_set(tmp_path)
    good = (tmp_path / "labels/train/train0.txt").read_text()
    (tmp_path / "labels/train/train0.txt").write_text(f"{good}0 0.5\ncat 0.5 0.5 0.1 0.1\n1.5 0.5 0.5 0.1 0.1\n\n")
    (tmp_path / "labels/train/train1.txt").unlink()
    with caplog.at_level(logging.INFO):
        records = read(tmp_path).records("train")
    assert [len(r.boxes) for r in records] == [1, 0, 1, 1]
    assert "left out 3 of 6 rows of labels that are not: class x y width height" in caplog.text
    assert "1 of 4 images have no txt file and count as images without objects" in caplog.text


def test_rows_of_predictions_are_told_from_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    yolo_set(tmp_path)
    txts(tmp_path / "labels/train", names("train", 4), "{} 0.35 0.35 0.5 0.5 0.87\n")
    (tmp_path / "labels/train/train3.txt").write_text("1 0.35 0.35 0.5 0.5 17\n")
    assert not any(len(r.boxes) for r in read(tmp_path).records("train"))
    words = "left out 3 of 4 rows with a sixth value, which looks like a confidence (five are read): remove it to train"
    assert words in caplog.text
    assert "left out 1 of 4 rows of labels that are not: class x y width height" in caplog.text


def test_classes_that_train_lacks_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    yolo_set(tmp_path)
    (tmp_path / "data.yaml").write_text("names: [cat, dog, owl]")
    (tmp_path / "labels/val/val0.txt").write_text("2 0.5 0.5 0.1 0.1")
    with caplog.at_level(logging.WARNING):
        read(tmp_path).check()
    assert "val has classes that train lacks: owl" in caplog.text


def test_an_xml_may_name_its_image(tmp_path: Path) -> None:
    photos(tmp_path / "images", ["b1"])
    xmls(tmp_path / "annotations", ["a1"], "../elsewhere/images/b1.jpg")
    assert [r.path.name for r in read_everything(tmp_path)] == ["b1.jpg"]
    xmls(tmp_path / "annotations", ["a1"], "../../etc/passwd")
    assert not read_everything(tmp_path)


def read_everything(root: Path) -> list[Record]:
    data = VocData(str(root), 32, train=".", val=".")
    return data.records("train")


def test_nothing_is_written_where_a_file_names_the_folder(tmp_path: Path) -> None:
    voc_without_lists(tmp_path)
    data = read(tmp_path)
    data.read_only = True
    first = [r.path for r in data.records("val")]
    assert not (tmp_path / "splits.json").exists()
    assert [r.path for r in read(tmp_path).records("val")] == first
    assert (tmp_path / "splits.json").exists()


def test_categories_of_one_name_are_one_class(tmp_path: Path) -> None:
    """As Roboflow exports them: the project's name is category 0."""
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg")
    things = [{"id": i, "image_id": 0, "category_id": i, "bbox": [1, 1, 9, 9]} for i in range(3)]
    categories = [{"id": i, "name": name} for i, name in enumerate(("raccoon", "raccoon", "cat"))]
    images = [{"id": 0, "file_name": "a.jpg", "width": 40, "height": 30}]
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": things, "categories": categories}))
    labels, (record,) = read_coco(tmp_path / "a.json", tmp_path)
    assert labels == ["raccoon", "cat"]
    assert record.labels.tolist() == [0, 0, 1]


def test_images_that_were_turned_or_resized_after_annotation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split in ("train", "val"):
        photos(tmp_path / split, names(split, 10))
        coco(tmp_path / f"{split}.json", tmp_path / split, names(split, 10))
        content = json.loads((tmp_path / f"{split}.json").read_text())
        wrong = 2 if split == "train" else 1  # a tenth is tolerated
        for i, image in enumerate(content["images"]):
            image |= {"width": 30, "height": 40} if i < wrong else {"width": 40, "height": 30}
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    read(tmp_path).check()
    (said,) = [record.getMessage() for record in caplog.records]
    assert "2 of 10 train images that were looked at have another size than was annotated" in said
    assert "train0.jpg: 30 x 40 annotated, 40 x 30 found" in said


def test_photos_of_unread_formats_are_counted_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    yolo_set(tmp_path)
    for name in ("a.HEIC", "b.heic", "c.dng", ".d.heic"):
        (tmp_path / "images" / "train" / name).touch()
    read(tmp_path).check()
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said == [f"{tmp_path}: 1 .dng, 2 .heic files are not read: convert them to JPEG"]


def test_yolo_with_pixels_is_named_as_such(tmp_path: Path) -> None:
    yolo_set(tmp_path)
    txts(tmp_path / "labels" / "train", names("train", 4), "{} 14 10.5 20 15\n")
    with pytest.raises(UserError, match="most boxes have values far over 1, as if they were pixels"):
        read(tmp_path).check()
