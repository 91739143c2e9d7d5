"""Folders of detection data as people have them: names that repeat, paths that are wrong, files that are not data."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from backbones.errors import UserError
from data.layouts import recognize
from tests.data.detection_sets import BOX, CLASSES, coco, jsonl, kind, names, photos, read, table, txts, xmls

NAMES = "names: [cat, dog]\n"
Counts = tuple[int, int, int]  # images of train, val and test; without a test split, those of val
ODD: dict[str, tuple[Counts, Callable[[Path], None]]] = {}


def odd(*counts: int) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    def add(write: Callable[[Path], None]) -> Callable[[Path], None]:
        train, val, *test = counts
        ODD[write.__name__] = (train, val, *(test or [val])), write  # type: ignore[assignment]  # of three
        return write

    return add


# --- equal names in the folders of splits -----------------------------------------------------------------


@odd(6, 4)
def csv_files_of_equal_names(root: Path) -> None:
    for split, count in (("train", 6), ("val", 4)):
        photos(root / split, names("a", count))
        table(root / f"{split}.csv", root / split, names("a", count))


@odd(6, 4)
def csv_files_of_equal_names_below_images(root: Path) -> None:
    for split, count in (("train", 6), ("val", 4)):
        photos(root / "images" / split, names("a", count))
        table(root / "annotations" / f"{split}_labels.csv", root / "images" / split, names("a", count))


@odd(6, 4)
def jsonl_files_of_equal_names(root: Path) -> None:
    for split, count in (("train", 6), ("val", 4)):
        photos(root / split, names("a", count))
        jsonl(root / split, names("a", count))
        (root / split / "metadata.jsonl").rename(root / f"{split}.jsonl")


@odd(6, 4, 3)
def coco_files_of_equal_names(root: Path) -> None:
    for split, count in (("train", 6), ("val", 4), ("test", 3)):
        photos(root / split, names("a", count))
        coco(root / "annotations" / f"{split}.json", root / split, names("a", count))


@odd(6, 4)
def yolo_lists_of_equal_names(root: Path) -> None:
    for split, count in (("train", 6), ("val", 4)):
        photos(root / split / "images", names("a", count))
        txts(root / split / "labels", names("a", count))
        files = sorted(p.name for p in (root / split / "images").iterdir())
        (root / f"{split}.txt").write_text("".join(f"./{split}/images/{file}\n" for file in files))


@odd(6, 4)
def voc_files_of_equal_names(root: Path) -> None:
    for split, count in (("train", 6), ("val", 4)):
        photos(root / split / "images", names("a", count))
        xmls(root / split / "annotations", names("a", count))


# --- what data.yaml says ----------------------------------------------------------------------------------


def yolo(root: Path, text: str, **folders: str) -> None:
    """Images in a folder for each split, and a data.yaml with this text."""
    for (split, folder), count in zip(folders.items(), (6, 4, 3), strict=False):
        photos(root / folder / "images", names(split, count))
        txts(root / folder / "labels", names(split, count))
    (root / "data.yaml").write_text(text + NAMES)


@odd(6, 4)
def yolo_paths_one_folder_up(root: Path) -> None:
    yolo(root, "train: ../train/images\nval: ../valid/images\n", train="train", val="valid")


@odd(6, 4)
def yolo_paths_of_another_machine(root: Path) -> None:
    yolo(root, "path: /content/set\ntrain: train/images\nval: C:\\set\\valid\\images\n", train="train", val="valid")


@odd(6, 4)
def yolo_without_paths(root: Path) -> None:
    yolo(root, "", train="train", val="valid")


@odd(10, 3)
def yolo_lists_of_paths(root: Path) -> None:
    yolo(root, "train: [one/images, two/images]\nval: three/images\n", a="one", b="two", c="three")


@odd(10, 3)
def yolo_lists_of_paths_of_another_machine(root: Path) -> None:
    text = "path: ../set\ntrain:\n- ../one/images\n- two/images\nval:\n- /x/three/images\n"
    yolo(root, text, a="one", b="two", c="three")


@odd(4, 2)
def yolo_whose_val_is_train(root: Path) -> None:
    yolo(root, "train: ../train/images\nval: ../train/images\n", train="train")


@odd(6, 4, 3)
def yolo_that_names_its_folders_only(root: Path) -> None:
    yolo(root, "train: train\nval: valid\ntest: test\n", train="train", val="valid", test="test")


@odd(6, 4)
def yolo_of_poses(root: Path) -> None:
    """Key points follow the boxes, as many numbers as a polygon could have."""
    yolo(root, "kpt_shape: [2, 2]\n", train="train", val="valid")
    for file in root.rglob("*/labels/*.txt"):
        file.write_text(file.read_text().strip() + " 0.9 0.9 0.8 0.8\n")


# --- one file for all splits ------------------------------------------------------------------------------


def three(root: Path) -> list[str]:
    """Images in train, val and test; the names of all."""
    for split, count in (("train", 6), ("val", 4), ("test", 3)):
        photos(root / split, names(split, count))
    return [name for split, count in (("train", 6), ("val", 4), ("test", 3)) for name in names(split, count)]


def all_coco(root: Path, prefix: Callable[[str], str]) -> None:
    for split, count in (("train", 6), ("val", 4), ("test", 3)):
        coco(root / f"{split}.part", root / split, names(split, count), prefix(split))
    parts = [json.loads((root / f"{split}.part").read_text()) for split in ("train", "val", "test")]
    images, annotations = [], []
    for i, part in enumerate(parts):
        images += [{**image, "id": image["id"] + 100 * i} for image in part["images"]]
        annotations += [{**row, "image_id": row["image_id"] + 100 * i} for row in part["annotations"]]
    content = {"images": images, "annotations": annotations, "categories": parts[0]["categories"]}
    (root / "annotations.json").write_text(json.dumps(content))


@odd(6, 4, 3)
def one_coco_file_with_folders(root: Path) -> None:
    three(root)
    all_coco(root, lambda split: f"{split}/")


@odd(6, 4, 3)
def one_coco_file_without_folders(root: Path) -> None:
    three(root)
    all_coco(root, lambda _: "")


@odd(6, 4, 3)
def one_coco_file_without_folders_below_images(root: Path) -> None:
    three(root / "images")
    all_coco(root / "images", lambda _: "")
    (root / "annotations").mkdir()
    (root / "images" / "annotations.json").rename(root / "annotations" / "all.json")


@odd(6, 4, 3)
def one_csv_file(root: Path) -> None:
    three(root)
    lines = []
    for split, count in (("train", 6), ("val", 4), ("test", 3)):
        table(root / "part.csv", root / split, names(split, count))
        header, *rows = (root / "part.csv").read_text().splitlines()
        lines += rows
    (root / "part.csv").unlink()
    (root / "all.csv").write_text("\n".join([header, *lines]))


@odd(6, 4, 3)
def one_jsonl_file(root: Path) -> None:
    three(root)
    for split, count in (("train", 6), ("val", 4), ("test", 3)):
        jsonl(root, names(split, count), f"{split}/")


# --- lists ------------------------------------------------------------------------------------------------


def listed(root: Path, **splits: int) -> None:
    """YOLO's images with a list for each split, without data.yaml."""
    for name, count in splits.items():
        photos(root / "images", names(name, count))
        txts(root / "labels", names(name, count))
        files = sorted(p.name for p in (root / "images").iterdir() if p.stem.startswith(name))
        (root / f"{name}.txt").write_text("".join(f"images/{file}\n" for file in files))
    (root / "classes.txt").write_text("\n".join(CLASSES))


@odd(6, 4)
def a_list_named_valid(root: Path) -> None:
    listed(root, train=6, valid=4)


@odd(6, 4, 3)
def a_list_named_validation(root: Path) -> None:
    listed(root, training=6, validation=4, testing=3)


@odd(16, 4)
def a_lone_list(root: Path) -> None:
    listed(root, train=20)
    photos(root / "images", names("other", 5))
    txts(root / "labels", names("other", 5))


@odd(16, 4)
def a_lone_list_of_voc(root: Path) -> None:
    photos(root / "JPEGImages", [*names("a", 20), *names("b", 5)])
    xmls(root / "Annotations", [*names("a", 20), *names("b", 5)])
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "default.txt").write_text("\n".join(names("a", 20)))


@odd(6, 4)
def voc_lists_named_valid(root: Path) -> None:
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for split, count in (("train", 6), ("valid", 4)):
        photos(root / "JPEGImages", names(split, count))
        xmls(root / "Annotations", names(split, count))
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names(split, count)))


# --- files that are no data -------------------------------------------------------------------------------


def litter(*folders: Path) -> None:
    """What macOS and Windows leave, beside each file and in folders of its own, and links that lead to themselves."""
    for folder in folders:
        for path in [*folder.iterdir()]:
            if path.is_file():
                (folder / f"._{path.name}").write_bytes(b"\0\5\x16\7")
        (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        (folder / "Thumbs.db").write_bytes(b"\xd0\xcf")
        (folder / ".thumbnails").mkdir()
        Image.new("RGB", (8, 8)).save(folder / ".thumbnails" / "1.jpg")
        (folder / "loop").symlink_to("loop")
        (folder / "up").symlink_to(folder.parent)
        (folder / "__MACOSX").mkdir()
        Image.new("RGB", (8, 8)).save(folder / "__MACOSX" / "1.jpg")


@odd(6, 4)
def yolo_with_litter(root: Path) -> None:
    yolo(root, "train: train/images\nval: valid/images\n", train="train", val="valid")
    litter(root, *(root / split / kind for split in ("train", "valid") for kind in ("images", "labels")))


@odd(16, 4)
def voc_with_litter(root: Path) -> None:
    photos(root, names("a", 20))
    xmls(root, names("a", 20))
    litter(root)


@odd(6, 4)
def coco_with_litter(root: Path) -> None:
    for split, count in (("train", 6), ("val", 4)):
        photos(root / split, names(split, count))
        coco(root / split / "_annotations.coco.json", root / split, names(split, count))
    litter(root, root / "train", root / "val")


@odd(6, 4)
def csv_with_litter(root: Path) -> None:
    for split, count in (("train", 6), ("val", 4)):
        photos(root / split, names(split, count))
        table(root / f"{split}.csv", root / split, names(split, count))
    litter(root, root / "train", root / "val")


# --- names ------------------------------------------------------------------------------------------------


@odd(6, 4)
def coco_2014(root: Path) -> None:
    for split, count in (("train2014", 6), ("val2014", 4)):
        (root / split).mkdir(parents=True)
        photos(root / split, stems := [f"COCO_{split}_{i:012d}" for i in range(count)])
        for what in ("instances", "captions", "person_keypoints"):
            coco(root / f"annotations/{what}_{split}.json", root / split, stems)


@odd(6, 4)
def coco_2014_below_images(root: Path) -> None:
    for split, count in (("train2014", 6), ("val2014", 4)):
        photos(root / "images" / split, stems := [f"COCO_{split}_{i:012d}" for i in range(count)])
        coco(root / f"annotations/instances_{split}.json", root / "images" / split, stems)


def upper(folder: Path) -> None:
    for path in [*folder.iterdir()]:
        path.rename(path.with_suffix(path.suffix.upper()))


@odd(6, 4)
def yolo_in_upper_case(root: Path) -> None:
    yolo(root, "", train="TRAIN", val="Valid")
    for split in ("TRAIN", "Valid"):
        upper(root / split / "images")
        upper(root / split / "labels")
    (root / "data.yaml").rename(root / "DATA.YAML")


@odd(16, 4)
def voc_in_upper_case(root: Path) -> None:
    photos(root / "Images", names("a", 20))
    xmls(root / "ANNOTATIONS", names("a", 20))
    upper(root / "Images")
    upper(root / "ANNOTATIONS")


@odd(6, 4)
def coco_in_upper_case(root: Path) -> None:
    for split, count in (("Train", 6), ("VAL", 4)):
        photos(root / split, names(split, count))
        upper(root / split)
        (root / "Annotations").mkdir(exist_ok=True)
        coco(root / "x.json", root / split, names(split, count))
        (root / "x.json").rename(root / "Annotations" / f"Instances_{split}.JSON")


@pytest.mark.parametrize("name", ODD)
def test_an_odd_folder_is_read(name: str, tmp_path: Path) -> None:
    counts, write = ODD[name]
    root = tmp_path / "set"
    root.mkdir()
    write(root)
    data = read(root)
    records = {split: data.records(split) for split in ("train", "val", "test")}
    assert tuple(map(len, records.values())) == counts
    assert data.labels in (CLASSES, ["class0", "class1"])
    for record in (r for own in records.values() for r in own):
        assert record.path.is_file()
        assert record.boxes.tolist() == [pytest.approx(BOX)]
        assert CLASSES[record.labels[0]] == kind(record.path.stem)
    paths = {split: {os.path.realpath(r.path) for r in own} for split, own in records.items()}
    assert not paths["train"] & (paths["val"] | paths["test"])
    assert len(paths["train"]) == counts[0]
    data.check()


# --- refused ----------------------------------------------------------------------------------------------


def refused(root: Path, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        read(root).check()
    assert "\n" not in str(error.value)


def test_images_of_val_that_are_missing(tmp_path: Path) -> None:
    """Val is not silently drawn from train: its annotation file exists."""
    for split, count in (("train", 6), ("val", 4)):
        photos(tmp_path / split, names(split, count))
        coco(tmp_path / "annotations" / f"{split}.json", tmp_path / split, names(split, count))
    for path in (tmp_path / "val").iterdir():
        path.unlink()
    refused(tmp_path, "none of the 4 images of the val split exist")


def test_yolos_val_that_is_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    yolo(tmp_path, "train: ../train/images\nval: ../valid/images\n", train="train")
    data = read(tmp_path)
    assert [len(data.records(split)) for split in ("train", "val")] == [4, 2]
    assert "data.yaml: val: ../valid/images is not there" in caplog.text
    assert "a random fifth for val" in data.choices


def test_a_lone_list_of_val(tmp_path: Path) -> None:
    listed(tmp_path, val=6)
    refused(tmp_path, "val.txt lists val, but no list says what is train's")


def test_two_lists_of_one_split(tmp_path: Path) -> None:
    listed(tmp_path, train=6, val=4, valid=4)
    assert recognize(tmp_path, "_detection").option == "yolo"
    assert len(read(tmp_path).records("val")) == 4
