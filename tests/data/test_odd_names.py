"""Names that a list or table spells differently from the disk, and test splits without labels."""

import json
import unicodedata
from pathlib import Path
from typing import Any, Literal

import pytest

from data.coco import read_coco
from tests.data.detection_sets import coco, found, jsonl, names, photos, read, table, xmls

Form = Literal["NFC", "NFD"]


@pytest.mark.parametrize("column", ["", "  1"])
def test_lists_of_voc_have_names_with_spaces(column: str, tmp_path: Path) -> None:
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for split in ("train", "val"):
        own = [f"my photo {split} {i}" for i in range(3)]
        photos(tmp_path / "JPEGImages", own)
        xmls(tmp_path / "Annotations", own)
        (lists / f"{split}.txt").write_text("".join(f"{name}{column}\n" for name in own))
    data = read(tmp_path)
    assert [len(data.records(split)) for split in ("train", "val")] == [3, 3]


@pytest.mark.parametrize(("here", "there"), [("NFD", "NFC"), ("NFC", "NFD")])
@pytest.mark.parametrize("write", [coco, table, jsonl], ids=["coco", "csv", "jsonl"])
def test_accents_are_written_in_two_ways(write: Any, here: Form, there: Form, tmp_path: Path) -> None:
    """macOS stores letters and their accents separately in file names."""
    listed, lying = (unicodedata.normalize(form, "Bär") for form in (there, here))
    for split in ("train", "val"):
        own = [f"{listed}{i}" for i in range(3)]
        photos(tmp_path / split, own)
        target = tmp_path / split
        write(*([target] if write is jsonl else [target / "_annotations", target]), own)
        for file in [*target.glob("*_annotations")]:
            file.rename(file.with_suffix(".json" if write is coco else ".csv"))
        for file in [p for p in target.iterdir() if p.suffix.lower() in (".jpg", ".png")]:
            file.rename(file.with_name(file.name.replace(listed, lying)))
    data = read(tmp_path)
    data.check()
    assert [len(data.records(split)) for split in ("train", "val")] == [3, 3]
    assert all(record.path.is_file() for record in data.records("train"))


def test_names_with_backslashes(tmp_path: Path) -> None:
    """As Windows writes paths."""
    photos(tmp_path / "images", names("a", 3))
    coco(tmp_path / "train.json", tmp_path / "images", names("a", 3), "images\\")
    _, records = read_coco(tmp_path / "train.json", tmp_path / "images")
    assert [record.path.parent for record in records] == [tmp_path / "images"] * 3
    assert all(record.path.is_file() for record in records)


def test_accents_of_voc(tmp_path: Path) -> None:
    listed, lying = (unicodedata.normalize(form, "Bär") for form in ("NFC", "NFD"))
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    for i, split in enumerate(("train", "val")):
        photos(tmp_path / "JPEGImages", [f"{(listed, lying)[i]}{i}"])
        xmls(tmp_path / "Annotations", [f"{lying}{i}"])
        (tmp_path / "ImageSets" / "Main" / f"{split}.txt").write_text(f"{listed}{i}\n")
    assert [len(read(tmp_path).records(split)) for split in ("train", "val")] == [1, 1]


def coco_without_labels_of_test(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        photos(root / folder, names(split, 3))
        coco(root / folder / "_annotations.coco.json", root / folder, names(split, 3))
    file = root / "test" / "_annotations.coco.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))


def csv_without_labels_of_test(root: Path) -> None:
    for split in ("train", "val", "test"):
        photos(root / split, names(split, 3))
        table(root / f"{split}.csv", root / split, names(split, 3), ())
    (root / "test.csv").write_text("".join(f"test/{found(root / 'test', n)},,,,,\n" for n in names("test", 3)))


@pytest.mark.parametrize("write", [coco_without_labels_of_test, csv_without_labels_of_test])
def test_a_test_split_whose_labels_are_not_published(write: Any, tmp_path: Path) -> None:
    """Training is possible without them; a split that is named in the settings is read, or refused."""
    write(tmp_path)
    data = read(tmp_path)
    data.check()
    assert [r.path for r in data.records("test")] == [r.path for r in data.records("val")]
    assert "test has no boxes, val is measured" in data.choices
