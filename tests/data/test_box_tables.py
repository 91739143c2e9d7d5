"""Tables of boxes: their columns, and how they name images."""

import csv
from pathlib import Path

import pytest

from data.layouts import recognize
from tests.data.detection_sets import BOX, CLASSES, found, kind, names, photos, read

VINBIG = ("image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max")


@pytest.mark.parametrize(
    ("images", "file"),
    [("train", "train.csv"), ("images", "boxes.csv"), ("images/train", "annotations/train.csv"), ("", "boxes.csv")],
)
def test_images_named_without_suffix(images: str, file: str, tmp_path: Path) -> None:
    """As in VinBigData, where an image without objects has a class but no corners."""
    photos(tmp_path / images, every := names("a", 20))
    (tmp_path / file).parent.mkdir(exist_ok=True)
    with (tmp_path / file).open("w", newline="") as output:
        writer = csv.writer(output)
        writer.writerow(VINBIG)
        for name in every[:-1]:
            writer.writerow([name, kind(name), CLASSES.index(kind(name)), "R8", *BOX])
        writer.writerow([every[-1], "No finding", 14, "R8", "", "", "", ""])
    assert recognize(tmp_path, "_detection").option == "box_csv"
    data = read(tmp_path)
    records = [*data.records("train"), *data.records("val")]
    assert sorted(r.path.name for r in records) == sorted(found(tmp_path / images, name) for name in every)
    assert data.labels == CLASSES
    assert sorted(len(r.boxes) for r in records) == [0, *[1] * 19]
    assert all(r.boxes.tolist() == [BOX] for r in records if len(r.boxes))


@pytest.mark.parametrize("column", ["img_id", "filepath", "photo"])
def test_names_of_columns_are_those_of_class_tables(column: str, tmp_path: Path) -> None:
    photos(tmp_path, every := names("a", 20))
    lines = [f"{found(tmp_path, name)},{','.join(map(str, BOX))},{kind(name)}" for name in every]
    (tmp_path / "boxes.csv").write_text("\n".join([f"{column},x1,y1,x2,y2,species", *lines]))
    assert len(read(tmp_path).records("train")) == 16


def test_a_box_without_a_class_makes_no_background(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Only an image without corners is one without objects."""
    photos(tmp_path, every := names("a", 20))
    corners = ",".join(map(str, BOX))
    rows = [f"{found(tmp_path, name)},{corners},{kind(name)}" for name in every]
    rows[3], rows[4] = f"{found(tmp_path, 'a3')},{corners},", f"{found(tmp_path, 'a4')},,,,,"
    (tmp_path / "boxes.csv").write_text("\n".join(["image,x1,y1,x2,y2,class", *rows]))
    data = read(tmp_path)
    boxes = {r.path.stem: len(r.boxes) for split in ("train", "val") for r in data.records(split)}
    assert boxes == {name: int(name != "a4") for name in every if name != "a3"}
    assert "left out 1 of 20 rows that cannot be used; the first is a3" in caplog.text
