"""Splits of detection data that a table's column gives, or that are drawn."""

import json
from pathlib import Path

import pytest

from data.csv_images import CsvData
from data.folders import FoldersData
from tests.data.detection_sets import jsonl, names, photos, read, table, xmls

WORDS = {"train": 14, "validation": 4, "test": 2}


def with_column(root: Path, suffix: str, words: list[str]) -> None:
    """A table of boxes with a column of these words."""
    photos(root, every := names("a", len(words)))
    if suffix == "csv":
        table(root / "boxes.csv", root, every)
        header, *rows = (root / "boxes.csv").read_text().splitlines()
        lines = [f"{header},Split", *(f"{row},{word}" for row, word in zip(rows, words, strict=True))]
        (root / "boxes.csv").write_text("\n".join(lines))
    else:
        jsonl(root, every)
        contents = map(json.loads, (root / "metadata.jsonl").read_text().splitlines())
        lines = [json.dumps({**content, "split": word}) for content, word in zip(contents, words, strict=True)]
        (root / "metadata.jsonl").write_text("\n".join(lines))


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_column_of_splits_counts(suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = [word for word, count in WORDS.items() for _ in range(count)]
    with_column(tmp_path, suffix, words)
    data = read(tmp_path)
    found = {split: [int(r.path.stem[1:]) for r in data.records(split)] for split in ("train", "val", "test")}
    assert found == {"train": [*range(14)], "val": [*range(14, 18)], "test": [18, 19]}
    assert data.choices == "splits by the column of splits"
    assert not (tmp_path / "splits.json").exists()
    assert not caplog.records


def test_val_is_drawn_from_the_rows_of_train(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with_column(tmp_path, "csv", ["train"] * 10 + ["later"] * 10)
    data = read(tmp_path)
    assert [len(data.records(split)) for split in ("train", "val")] == [8, 2]
    assert all(int(r.path.stem[1:]) < 10 for split in ("train", "val") for r in data.records(split))
    assert "10 of 20 images are left out, as their split is not train, val or test but later (10)" in caplog.text


def test_a_column_of_one_word_is_none_of_splits(tmp_path: Path) -> None:
    with_column(tmp_path, "csv", ["mine"] * 20)
    data = read(tmp_path)
    assert [len(data.records(split)) for split in ("train", "val")] == [16, 4]
    assert data.choices == "a random fifth for val (splits.json)"


@pytest.mark.parametrize("family", ["_detection", "_classification", "table"])
def test_copies_of_an_image_stay_together(family: str, tmp_path: Path) -> None:
    """As Roboflow augments: three of each source, with a hash in their names."""
    copies = [f"a{i}_jpg.rf.{j}cd{i}" for i in range(30) for j in range(3)]
    if family == "_detection":
        photos(tmp_path, copies)
        xmls(tmp_path, copies)
        data = read(tmp_path)
        splits = {split: [r.path.name for r in data.records(split)] for split in ("train", "val")}
    elif family == "table":
        photos(tmp_path, copies)
        lines = [f"{path.name},{'ab'[i % 2]}\n" for i, path in enumerate(tmp_path.iterdir())]
        (tmp_path / "t.csv").write_text("image,label\n" + "".join(lines))
        csv = CsvData(str(tmp_path), 32, train="t.csv", val=None, image="image", target="label", workers=0)
        splits = {split: [s.path.name for s in csv.samples(split)] for split in ("train", "val")}
    else:
        for i, name in enumerate("ab"):
            photos(tmp_path / name, copies[45 * i : 45 * i + 45])
        folders = FoldersData(str(tmp_path), 32, train=".", val=None, workers=0)
        splits = {split: [s.path.name for s in folders.samples(split)] for split in ("train", "val")}
    sources = {split: {name.partition(".rf.")[0] for name in found} for split, found in splits.items()}
    assert not sources["train"] & sources["val"]
    assert [len(found) for found in splits.values()] == [72, 18]
