"""Folders of classification, faces, people and places that are refused, in one line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from backbones.errors import UserError
from data.layouts import recognize
from tasks.run import execute
from tests.data.test_layouts_images import images, opened, shard, table, three_tables, tree
from tests.data.test_shards import write_shard


def empty(root: Path) -> None:
    table(root, "notes/readme.txt", "nothing")


def without_labels(root: Path) -> None:
    images("photos/1.png", "photos/2.png", root=root)


def labels_alone(root: Path) -> None:
    table(root, "labels.csv", "image,label", "1.png,a", "2.png,b")


def no_column(root: Path) -> None:
    images("1.png", "2.png", root=root)
    table(root, "labels.csv", "image,age", "1.png,32", "2.png,31")


def mixed(root: Path) -> None:
    tree(root, "train", "val")
    table(root, "labels.csv", "image,label", "train/a/1.png,a", "train/b/1.png,b")


def two_tables(root: Path) -> None:
    images("1.png", root=root)
    for name in ("a.csv", "b.csv"):
        table(root, name, "image,label", "1.png,x")


def flat_val(root: Path) -> None:
    tree(root, "train")
    images("val/1.png", root=root)


def strange_class(root: Path) -> None:
    tree(root, "train", "val")
    images("val/c/1.png", root=root)


def one_class(root: Path) -> None:
    tree(root, "train", "val", classes="a")
    (root / "train" / "b").mkdir()


def strange_row(root: Path) -> None:
    three_tables(root)
    table(root, "val.tsv", "file\tlabel", "1.png\t7", "2.png\t0")


def outside(root: Path) -> None:
    images("in/1.png", "in/2.png", "secret.png", root=root)
    table(root / "in", "images.csv", "image,label", "1.png,a", "2.png,b", "../secret.png,b")


def few_have_images(root: Path) -> None:
    images("1.png", "2.png", root=root)
    table(root, "images.csv", "image,label", "1.png,a", "2.png,b", "3.png,b")


def other_case(root: Path) -> None:
    images("img/img_0.jpg", "img/img_1.jpg", root=root)
    table(root, "images.csv", "image,label", "IMG_0.JPG,a", "IMG_1.JPG,b")


def unnamed_shards(root: Path) -> None:
    shard(root / "000.tar", {"label": 1})


def archives(root: Path) -> None:
    for split in ("train", "val"):
        write_shard(root / f"{split}.tar", [{"jpg": b"an image"}] * 3)


def imagenet_archives(root: Path) -> None:
    for split in ("train", "val"):
        write_shard(root / f"ILSVRC2012_img_{split}.tar", [{"tar": b"images"}])


def packed(root: Path) -> None:
    (root / "photos.ZIP").touch()


def parquet(root: Path) -> None:
    (root / "data").mkdir()
    (root / "data" / "train-0.parquet").touch()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (packed, r"it has no images but 1 files such as photos\.ZIP: unpack them"),
        (parquet, r"it has no images but 1 files such as train-0\.parquet: export their images as files"),
        (archives, r"no sample has a \.cls or \.json that names its classes; if these are archives of images, unpack"),
        (imagenet_archives, r"has ImageNet's archives, .* python -m tasks\.prepare data=imagenet data\.root="),
        (empty, r"it has no images but 1 \.txt files; give the folder that contains the images and their labels"),
        (without_labels, r"photos has images without labels: put those of each class into a folder of its own"),
        (labels_alone, r"labels\.csv: no column names images below .*; its columns are image, label"),
        (other_case, r"there is no IMG_0\.JPG, as image says, but img_0\.jpg, which differs in upper and lower case"),
        (no_column, r"labels\.csv: which column has classes\? It has image, age; set data\.target="),
        (mixed, r"in several ways: choose data=folders \(a folder for each class: .*\) or data=csv \(a table: .*\)"),
        (two_tables, r"has the tables a\.csv and b\.csv: choose one with data=csv data\.train="),
        (flat_val, "val has no folder for each class, as train has"),
        (strange_class, "val has a class that train lacks: c"),
        (one_class, r"train has 1 class folders \(a\) with images; at least 2 are needed"),
        (strange_row, r"val\.tsv has a class that train lacks: 7"),
        (
            few_have_images,
            r"1 of 3 rows cannot be used: 1 without an image \(first: 3\.png\); at most the fraction data\.max_bad=",
        ),
        (unnamed_shards, r"which of 000\.tar, \.\.\. are for training\? Set data\.train="),
    ],
)
def test_one_line_says_what_is_wrong(make: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(UserError, match=words) as error:
        opened("classification", tmp_path)
    assert "\n" not in str(error.value)


def test_a_table_names_no_file_outside_of_root(tmp_path: Path) -> None:
    outside(tmp_path)
    with pytest.raises(UserError, match=r"1 without an image \(first: \.\./secret\.png\)"):
        opened("classification", tmp_path / "in")


@pytest.mark.parametrize(
    ("task", "lines", "words"),
    [
        ("faces", ["image,age", "1.png,32"], r"a\.csv: no column has attributes, .*; it has image, age"),
        ("geo", ["image,lat", "1.png,32"], r"a\.csv has no column longitude; its columns are image, lat"),
        ("geo", ["image,lat,lon", "9.png,32,3"], r"a\.csv: no column names images below"),
        ("geo", ["image,lat,lon", "1.png,32,3"], r"1 photos with positions are too few to train on: .*min_photos=50"),
    ],
)
def test_other_tables_that_lack_something(task: str, lines: list[str], words: str, tmp_path: Path) -> None:
    images("1.png", root=tmp_path)
    table(tmp_path, "a.csv", *lines)
    with pytest.raises(UserError, match=words) as error:
        opened(task, tmp_path)
    assert "\n" not in str(error.value)


def test_people_who_cannot_be_told_apart(tmp_path: Path) -> None:
    tree(tmp_path, ".", classes="abcde", count=1)
    with pytest.raises(UserError, match=r"the val split has 1 people with at most 1 images; it needs two, and"):
        opened("embedding", tmp_path)


def test_people_without_folders(tmp_path: Path) -> None:
    without_labels(tmp_path)
    words = "it has 2 images in photos, but no files of labels; give a folder of images for each person"
    with pytest.raises(UserError, match=words):
        opened("embedding", tmp_path)


def test_no_run_folder_is_left_by_data_that_are_wrong(tmp_path: Path) -> None:
    strange_class(tmp_path / "data")
    with pytest.raises(UserError, match="has a class that train lacks: c"):
        execute(["task=classification", f"data.root={tmp_path / 'data'}", f"paths.runs={tmp_path / 'runs'}"])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("place", "labels"), [("", ""), ("images/", "labels/"), ("JPEGImages/", "Annotations/")])
@pytest.mark.parametrize(
    ("suffix", "other", "text", "words"),
    [
        (".xml", None, "<annotation/>", "put all images and .xml files into one folder"),
        (".txt", "a cat on a mat", "1 0.5 0.5 0.1 0.1", "set task=detection"),
        (".json", '{"author": 3}', '{"shapes": [], "imagePath": "1.png"}', "export them as COCO or YOLO"),
    ],
)
def test_boxes_of_images_in_sub_folders_are_not_taken_for_classes(
    place: str, labels: str, suffix: str, other: str | None, text: str, words: str, tmp_path: Path
) -> None:
    """Captions and metadata may lie beside images of classes."""
    days = "day 1/1", "day 1/2", "day 2/3", "day 2/4"
    images(*(f"{place}{name}.png" for name in days), root=tmp_path)
    for content in filter(None, (other, text)):
        assert recognize(tmp_path, "_classification").option == "folders"
        for name in days[:3]:
            table(tmp_path, f"{labels}{name}{suffix}", content)
    with pytest.raises(UserError) as error:
        execute(["task=classification", f"data.root={tmp_path}"])
    assert f"has folders with {suffix} files of boxes beside the images" in str(error.value)
    assert words in str(error.value)


def test_an_archive_is_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "set.zip").touch()
    with pytest.raises(UserError, match=r"set\.zip is a file: give a folder; if it is an archive, unpack it first"):
        execute(["task=detection", f"data.root={tmp_path / 'set.zip'}"])


def test_photos_of_unread_formats_beside_those_of_a_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree(tmp_path, "train", "val")
    (tmp_path / "train" / "a" / "9.HEIC").touch()
    opened("classification", tmp_path)
    assert "1 .heic files are not read: convert them to JPEG" in caplog.text
