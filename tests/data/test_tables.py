"""Tables of images: which column has their names, and which files these names mean."""

from pathlib import Path

import numpy as np
import pytest

from backbones.errors import UserError
from data.csv_images import CsvData
from data.geo.positions import read_csv
from data.splits import split_in_name
from data.table import PEEK, Images, binary_columns, image_column, read_table, target_column
from tasks.check import with_task
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


def test_a_constant_column_or_one_of_splits_is_no_attribute(tmp_path: Path) -> None:
    """As a labelling tool's number of the only annotator."""
    images(*(f"{i}.png" for i in range(PEEK + 1)), root=tmp_path)
    head = "image,annotator,checked,hat,partition"
    rows = [f"{i}.png,1,,{int(i == PEEK)},{i % 2}" for i in range(PEEK + 1)]
    table(tmp_path, "a.csv", head, *rows)
    assert binary_columns(read_table(tmp_path / "a.csv"), ()) == ["hat"]
    assert opened("faces", tmp_path)[1].labels == ["hat"]  # though the rows that are looked at first all say no
    table(tmp_path, "a.csv", head, *rows[:PEEK])
    with pytest.raises(UserError, match="no column has attributes, which are yes and no"):
        opened("faces", tmp_path)
    data = CsvData(str(tmp_path), 32, train="a.csv", attributes=[])
    data.use_labels(["hat"])  # a model's, whose test images may all lack it
    assert data.labels == ["hat"]


def test_classes_as_label_studio_exports_them(tmp_path: Path) -> None:
    images(*(f"images/{i}.png" for i in range(10)), root=tmp_path)
    rows = (f"{i},1,{'ab'[i % 2]},/data/upload/1/{i}.png" for i in range(10))
    table(tmp_path, "project.csv", "annotation_id,annotator,choice,image", *rows)
    overrides, _ = with_task([f"data.root={tmp_path}"])
    assert "task=classification" in overrides
    assert opened("classification", tmp_path)[1].labels == ["a", "b"]


# --- which file a name means ------------------------------------------------------------------------------------------


def test_a_table_of_train_names_no_image_of_test(tmp_path: Path) -> None:
    images(*(f"{split}/{i}.png" for split in ("Test_images", "Train", "extra") for i in range(4)), root=tmp_path)
    images("Test_images/5.png", root=tmp_path)
    for stem, folder in (("trainLabels", "Train"), ("labels_test", "Test_images")):
        table(tmp_path, f"{stem}.csv", "id,lat,lon", *(f"{i},{i}.5,2.5" for i in range(4)))
        found = Images(tmp_path / f"{stem}.csv", tmp_path)
        assert [found.find(str(i)) for i in range(4)] == [tmp_path / folder / f"{i}.png" for i in range(4)]
        assert read_csv(tmp_path / f"{stem}.csv", tmp_path, 0).paths == [found.find(str(i)) for i in range(4)]
    assert Images(tmp_path / "trainLabels.csv", tmp_path).find("5") is None


def test_a_name_that_may_be_of_two_images(tmp_path: Path) -> None:
    images("a/1.png", "b/1.png", "b/2.png", "masks/3.png", "images/3.png", root=tmp_path)
    found = Images(tmp_path / "labels.csv", tmp_path)
    with pytest.raises(
        UserError, match=r"labels\.csv: 1 may be .*a/1\.png or .*b/1\.png: name the folder in the table"
    ):
        found.find("1")
    names = {"a/1.png": "a/1.png", "2": "b/2.png", "3.png": "images/3.png"}
    assert [found.find(name) for name in names] == [tmp_path / path for path in names.values()]


def test_the_split_in_a_name() -> None:
    names = {"trainLabels": "train", "ValImages2": "val", "TEST_set": "test", "strain": None, "labels": None}
    assert {name: split_in_name(name) for name in names} == names


@pytest.mark.parametrize(
    "name",
    ["img/1.png", "C:\\Users\\me\\img\\1.png", "/home/me/img/1", "set/img/1.png", "../img/1.png", "/home/me/1.png"],
)
def test_paths_from_another_machine(name: str, tmp_path: Path) -> None:
    images("img/1.png", root=tmp_path)
    assert Images(tmp_path / "a.csv", tmp_path).find(name) == tmp_path / "img" / "1.png"


def test_the_end_of_a_path_is_no_image_of_another_class_or_place(tmp_path: Path) -> None:
    images("set/dogs/1.png", "2.png", root=tmp_path)
    found = Images(tmp_path / "set" / "a.csv", tmp_path / "set")
    for name in ("cats/1.png", "../2.png", str(tmp_path / "2.png"), "/", "..", "", "a/" * 5000 + "1.png"):
        assert found.find(name) is None


def test_a_single_image_of_that_name_anywhere_below_the_root(tmp_path: Path) -> None:
    images("a/b/c/1.png", "a/b/c/2.png", "a/d/2.png", "test/b/3.png", "a/b/4.png", root=tmp_path)
    found = Images(tmp_path / "train.csv", tmp_path)
    names = {"1.png": tmp_path / "a/b/c/1.png", "2.png": None, "3.png": None, "4": None, "c/4.png": None}
    assert {name: found.find(name) for name in names} == names
    assert Images(tmp_path / "all.csv", tmp_path).find("3.png") == tmp_path / "test/b/3.png"


def test_of_many_folders_the_first_by_name_are_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("c", "b", "a", "d"):
        images(f"{name}/{name}1.png", root=tmp_path)
    monkeypatch.setattr("data.table.FOLDERS", 2)
    monkeypatch.setattr(Path, "iterdir", lambda path: iter([path / name for name in "dcba"]))
    found = Images(tmp_path / "labels.csv", tmp_path)
    assert [found.find(f"{name}1") for name in "abcd"] == [tmp_path / "a/a1.png", tmp_path / "b/b1.png", None, None]


def test_y_beside_x_is_no_class(tmp_path: Path) -> None:
    for header, column in (("image,x,y,w,h", None), ("image,X,y,class", "class"), ("image,y", "y")):
        table(tmp_path, "a.csv", header, ",".join("12345"[: header.count(",") + 1]))
        assert target_column(read_table(tmp_path / "a.csv")) == column


def test_a_folder_in_a_folder_of_the_same_name(tmp_path: Path) -> None:
    images("img_align_celeba/img_align_celeba/1.png", root=tmp_path)
    found = Images(tmp_path / "list_attr_celeba.csv", tmp_path).find("1.png")
    assert found == tmp_path / "img_align_celeba" / "img_align_celeba" / "1.png"
