"""Tables of images: which column has their names, and which files these names mean."""

from pathlib import Path

import numpy as np
import pytest

from data.geo.places import read_csv
from data.table import Images, image_column, read_table
from tests.data.test_layouts_images import images, opened, table


@pytest.mark.parametrize(
    ("header", "row", "column"),
    [
        (",filename,label", "{i},{j}.png,{c}", "filename"),  # as pandas writes its index
        ("id,foto,label", "{i},{j}.png,{c}", "foto"),
        ("id,image,label", "{i},{j},{c}", "image"),
        (",foto,label", "{i},{j},{c}", "foto"),
        ("level,id", "{c},{j}", "id"),
        ("label,mask,image", "{c},{i}.png,{j}.png", "image"),
    ],
)
def test_numbers_of_rows_and_classes_are_not_taken_for_images(
    header: str, row: str, column: str, tmp_path: Path
) -> None:
    images(*(f"images/{i}.png" for i in range(10)), root=tmp_path)
    table(tmp_path, "a.csv", header, *(row.format(i=i, j=9 - i, c=i % 2) for i in range(10)))
    assert image_column(read_table(tmp_path / "a.csv"), Images(tmp_path / "a.csv", tmp_path)) == column


def test_the_column_of_images_is_told(tmp_path: Path) -> None:
    images(*(f"images/{i}.png" for i in range(10)), root=tmp_path)
    table(tmp_path, "a.csv", "id,foto,label", *(f"{i},{9 - i}.png,{i % 2}" for i in range(10)))
    _, data = opened("classification", tmp_path)
    assert "image names in foto, classes in label" in data.choices


def test_places_of_numbered_photos(tmp_path: Path) -> None:
    images(*(f"{i}.png" for i in range(10)), root=tmp_path)
    table(tmp_path, "a.csv", "id,filename,lat,lon", *(f"{i},{9 - i}.png,{10 - i},2" for i in range(10)))
    places = read_csv(tmp_path / "a.csv", tmp_path, 0)
    np.testing.assert_array_equal(places.positions[:, 0], [1 + int(path.stem) for path in places.paths])
