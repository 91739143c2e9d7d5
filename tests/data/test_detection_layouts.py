"""Detection data by its folder alone: every layout is recognised and read alike, and what is wrong with it is said."""

import csv
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from backbones.errors import UserError
from data.box_files import BoxCsvData, BoxJsonlData
from data.coco import CocoData
from data.detection import DetectionData, Record
from data.layouts import recognize
from data.voc import VocData
from data.yolo import YoloData
from tasks.run import execute
from tests.conftest import shared

OPTIONS = {"voc": VocData, "yolo": YoloData, "coco": CocoData, "box_csv": BoxCsvData, "box_jsonl": BoxJsonlData}
WIDTH, HEIGHT = 40, 30
BOX = [4.0, 3.0, 24.0, 18.0]  # of the one object of each image
CLASSES = ["cat", "dog"]
Names = list[str]


def photos(folder: Path, names: Names) -> None:
    """Images of these names without suffix, of several kinds."""
    folder.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (WIDTH, HEIGHT))
    for i, name in enumerate(names):
        image.save(folder / f"{name}{('.jpg', '.JPG', '.png')[i % 3]}")


def kind(name: str) -> str:
    """The class of the object in an image."""
    return CLASSES[int(name[-1]) % 2]


def names(split: str, count: int) -> Names:
    return [f"{split}{i}" for i in range(count)]


def xmls(folder: Path, names: Names, file_name: str = "elsewhere.jpg") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        corners = "<xmin>5</xmin><ymin>4</ymin><xmax>24</xmax><ymax>18</ymax>"  # counted from 1
        thing = f"<object><name>{kind(name)}</name><bndbox>{corners}</bndbox></object>"
        (folder / f"{name}.xml").write_text(f"<annotation><filename>{file_name}</filename>{thing}</annotation>")


def txts(folder: Path, names: Names, row: str = "{} 0.35 0.35 0.5 0.5\n") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.txt").write_text(row.format(CLASSES.index(kind(name))))


def found(folder: Path, name: str) -> str:
    """The file of an image."""
    return next(p.name for p in folder.iterdir() if p.stem == name and p.suffix.lower() in (".jpg", ".png"))


def coco(path: Path, folder: Path, names: Names, prefix: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    left, top, right, bottom = BOX
    rows = [
        {
            "id": i,
            "image_id": i,
            "category_id": 3 + CLASSES.index(kind(n)),
            "bbox": [left, top, right - left, bottom - top],
        }
        for i, n in enumerate(names, start=1)
    ]
    content = {
        "images": [{"id": i, "file_name": prefix + found(folder, n)} for i, n in enumerate(names, start=1)],
        "annotations": rows,
        "categories": [{"id": 3 + i, "name": name} for i, name in enumerate(CLASSES)],
    }
    path.write_text(json.dumps(content))


HEADER = ("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax")


def table(path: Path, folder: Path, names: Names, header: tuple[str, ...] = HEADER, prefix: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text)
    if header:
        writer.writerow(header)
    for name in names:
        values = {"filename": prefix + found(folder, name), "width": WIDTH, "height": HEIGHT, "class": kind(name)}
        values |= dict(zip(HEADER[4:], BOX, strict=True))
        wanted = header or ("filename", *HEADER[4:], "class")
        writer.writerow([values[key] for key in wanted])
    path.write_text(text.getvalue())


def jsonl(folder: Path, names: Names, prefix: str = "", one_by_one: bool = False) -> None:
    rows = []
    for name in names:
        thing: object = {"bbox": [[4, 3, 20, 15]], "categories": [kind(name)]}
        if one_by_one:
            thing = [{"bbox": [4, 3, 20, 15], "category": CLASSES.index(kind(name))}]
        rows.append(json.dumps({"file_name": prefix + found(folder / prefix, name), "objects": thing}))
    with (folder / "metadata.jsonl").open("a") as file:
        file.write("\n".join(rows) + "\n")


# --- the layouts ------------------------------------------------------------------------------------------

SPLITS = {"train": 6, "val": 4, "test": 3}
DRAWN = {"train": 16, "val": 4}
LAYOUTS: dict[str, tuple[str, dict[str, int], Callable[[Path], None]]] = {}


def layout(option: str, splits: dict[str, int]) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    def add(write: Callable[[Path], None]) -> Callable[[Path], None]:
        LAYOUTS[write.__name__] = option, splits, write
        return write

    return add


@layout("voc", SPLITS)
def voc_with_lists(root: Path) -> None:
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for split, count in SPLITS.items():
        photos(root / "JPEGImages", names(split, count))
        xmls(root / "Annotations", names(split, count))
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names(split, count)))


@layout("voc", DRAWN)
def voc_without_lists(root: Path) -> None:
    photos(root / "images", names("a", 20))
    xmls(root / "annotations", names("a", 20))


@layout("voc", {"train": 6, "val": 3})
def voc_beside_images_test_is_val(root: Path) -> None:
    for split in ("train", "test"):
        photos(root / split, names(split, SPLITS[split]))
        xmls(root / split, names(split, SPLITS[split]))


@layout("voc", DRAWN)
def voc_beside_images(root: Path) -> None:
    photos(root, names("a", 20))
    xmls(root, names("a", 20))


@layout("voc", SPLITS)
def voc_of_split_folders(root: Path) -> None:
    for split, count in SPLITS.items():
        photos(root / "images" / split, names(split, count))
        xmls(root / "annotations" / split, names(split, count))


@layout("yolo", SPLITS)
def yolo_images_train(root: Path) -> None:
    for split, count in SPLITS.items():
        photos(root / "images" / split, names(split, count))
        txts(root / "labels" / split, names(split, count))
    (root / "data.yaml").write_text("path: ../elsewhere\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}")


@layout("yolo", SPLITS)
def yolo_train_images_with_wrong_paths(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        photos(root / folder / "images", names(split, SPLITS[split]))
        txts(root / folder / "labels", names(split, SPLITS[split]))
    (root / "data.yaml").write_text("train: ../train/images\nval: /home/me/set/images/val\nnc: 2\nnames: [cat, dog]")


@layout("yolo", DRAWN)
def yolo_flat_with_classes_txt(root: Path) -> None:
    photos(root / "images", names("a", 20))
    txts(root / "labels", names("a", 20))
    (root / "labels" / "classes.txt").write_text("cat\ndog\n")


@layout("yolo", DRAWN)
def yolo_beside_images(root: Path) -> None:
    photos(root, names("a", 20))
    txts(root, names("a", 20), "{} 0.1 0.1 0.6 0.1 0.6 0.6 0.1 0.6\n")  # outlines
    (root / "dataset.yml").write_text("names: [cat, dog]")


@layout("yolo", {"train": 6, "val": 4})
def yolo_of_lists(root: Path) -> None:
    for split in ("train", "val"):
        photos(root / "images", names(split, SPLITS[split]))
        txts(root / "labels", names(split, SPLITS[split]))
        files = [found(root / "images", name) for name in names(split, SPLITS[split])]
        (root / f"{split}.txt").write_text("".join(f"/home/me/set/images/{file}\n" for file in files))
    (root / "data.yaml").write_text("train: train.txt\nval: val.txt\nnames: [cat, dog]")


@layout("coco", {"train": 6, "val": 4})
def coco_2017(root: Path) -> None:
    for split in ("train", "val"):
        photos(root / f"{split}2017", names(split, SPLITS[split]))
        for what in ("instances", "person_keypoints"):
            coco(root / f"annotations/{what}_{split}2017.json", root / f"{split}2017", names(split, SPLITS[split]))


@layout("coco", SPLITS)
def coco_of_roboflow(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        photos(root / folder, names(split, SPLITS[split]))
        coco(root / folder / "_annotations.coco.json", root / folder, names(split, SPLITS[split]))


@layout("coco", {"train": 6, "val": 4})
def coco_annotations_train(root: Path) -> None:
    for split in ("train", "val"):
        photos(root / "images", names(split, SPLITS[split]))
        coco(root / "annotations" / f"{split}.json", root / "images", names(split, SPLITS[split]), "images/")


@layout("coco", {"train": 6, "val": 4})
def coco_images_train(root: Path) -> None:
    for split in ("train", "val"):
        photos(root / "images" / split, names(split, SPLITS[split]))
        coco(root / f"{split}.json", root / "images" / split, names(split, SPLITS[split]))


@layout("coco", DRAWN)
def coco_one_file(root: Path) -> None:
    photos(root / "images", names("a", 20))
    coco(root / "result.json", root / "images", names("a", 20), "/data/upload/")


@layout("coco", DRAWN)
def coco_beside_images(root: Path) -> None:
    photos(root, names("a", 20))
    coco(root / "labels.json", root, names("a", 20))


@layout("box_csv", {"train": 6, "val": 3})
def csv_of_tensorflow(root: Path) -> None:
    for split in ("train", "test"):
        photos(root / "images" / split, names(split, SPLITS[split]))
        table(root / "data" / f"{split}_labels.csv", root / "images" / split, names(split, SPLITS[split]))
        (root / "data" / f"{split}_labels.csv").rename(root / f"{split}_labels.csv")


@layout("box_csv", SPLITS)
def csv_of_roboflow(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        photos(root / folder, names(split, SPLITS[split]))
        table(root / folder / "_annotations.csv", root / folder, names(split, SPLITS[split]))


@layout("box_csv", DRAWN)
def csv_of_retinanet(root: Path) -> None:
    photos(root / "images", names("a", 20))
    table(root / "annotations.csv", root / "images", names("a", 20), (), "/home/me/images/")


@layout("box_jsonl", {"train": 6, "val": 4})
def imagefolder(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "validation")):
        photos(root / folder, names(split, SPLITS[split]))
        jsonl(root / folder, names(split, SPLITS[split]))


@layout("box_jsonl", {"train": 6, "val": 4})
def imagefolder_with_one_file(root: Path) -> None:
    for split in ("train", "val"):
        photos(root / split, names(split, SPLITS[split]))
        jsonl(root, names(split, SPLITS[split]), f"{split}/", one_by_one=True)


def read(root: Path) -> DetectionData:
    return OPTIONS[recognize(root, "_detection").option](str(root), 32, workers=0)


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
        assert "a fifth drawn for val (splits.json)" in data.told
        assert {kind(path.stem) for path in val} == {*CLASSES}
        again = read(tmp_path)
        assert [r.path for r in again.records("val")] == [r.path for r in records["val"]]
    assert ("val is test" in data.told) == (splits == {"train": 6, "val": 3})
    assert data.dataset("train")[0]["image"].shape == (3, 32, 32)
    data.check()


@pytest.mark.parametrize(
    ("name", "option", "counts", "labels"),
    [
        ("bccd", "voc", "205 train, 87 val, 72 test images, 3 classes", "Platelets"),
        ("raccoon", "voc", "160 train, 40 val images, 1 classes", "raccoon"),
        ("aquarium", "yolo", "448 train, 127 val, 63 test images, 7 classes", "fish"),
        ("cards", "voc", "148 train, 67 val images, 6 classes", "ace"),
    ],
)
def test_sets_as_published(name: str, option: str, counts: str, labels: str, tmp_path: Path) -> None:
    for path in shared(f"data/{name}").iterdir():  # links, for the folder itself may be written to
        (tmp_path / path.name).symlink_to(path)
    data = read(tmp_path)
    assert recognize(tmp_path, "_detection").option == option
    assert data.summary() == counts
    assert data.labels[0] == labels


# --- what is wrong, in one line before the first step ---------------------------------------------------------


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


def missing_column(root: Path) -> None:
    photos(root, names("a", 4))
    table(root / "boxes.csv", root, names("a", 4), HEADER[:-1])


def images_of_another_folder(root: Path) -> None:
    photos(root, names("a", 4))
    table(root / "boxes.csv", root, names("a", 4))
    for path in root.glob("a*"):
        path.rename(root / f"b{path.name}")


def two_coco_files(root: Path) -> None:
    photos(root, names("a", 4))
    for name in ("one", "two"):
        coco(root / f"{name}.json", root, names("a", 4))


def names_twice(root: Path) -> None:
    yolo_set(root)
    (root / "data.yaml").write_text("names: [cat, cat]")


@pytest.mark.parametrize(
    ("write", "more", "words"),
    [
        (no_images, (), "it has no images; its layout is not known"),
        (labels_alone, (), "it has no images but 4 .xml files; its layout is not known"),
        (images_alone, (), "it has 4 images in images, but no files of labels; its layout is not known"),
        (two_formats, (), "can be read in several ways: choose data=coco (COCO) or data=yolo (YOLO)"),
        (two_yamls, (), "has coco8.yaml and data.yaml, both with names: choose one by data=yolo data.yaml="),
        (class_beyond_names, (), "val0.txt has an object of class 7; the names are of 2 classes, 0 to 1"),
        (names_twice, (), "data.yaml has two classes of the name 'cat'"),
        (split_without_labels, (), "images/val has 4 images but no txt files of labels"),
        (missing_column, (), "boxes.csv has no column of ymax (one of ymax, y_max, y2, bottom); it has filename, "),
        (images_of_another_folder, (), "boxes.csv names 4 images, of which none lies below"),
        (two_coco_files, (), "has one.json and two.json, both for train: choose by data=coco data.train_json="),
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
    assert "1 of 4 images have no txt file: they count as without objects" in caplog.text


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
