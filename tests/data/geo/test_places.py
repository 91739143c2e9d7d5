"""Positions from CSV files and from EXIF: what is read, and the messages about what cannot be."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from backbones.errors import UserError
from data.boxes import full_image
from data.crops import read_whole
from data.demo.earth import write_earth
from data.geo.cells import Hierarchy
from data.geo.places import GeoData, GeoSet, PhotoView
from data.geo.positions import Places, exif_position, has_positions, read_csv, read_folder
from data.image_file import ORIENTATION
from data.layouts import recognize
from tasks.multitask.data import JointData
from tests.conftest import shared

HEADER = "path,latitude,longitude\n"
UNSET = IFDRational(0, 0)


def table(folder: Path, text: str) -> Path:
    path = folder / "photos.csv"
    path.write_text(text)
    return path


# --- CSV -----------------------------------------------------------------------------------------------


def test_paths_are_below_the_root_and_columns_may_be_named_otherwise(tmp_path: Path) -> None:
    path = table(tmp_path, "note,lng,LAT,IMG_ID\nx,2.2945,48.8584,a/b.jpg\n\ny,-180,-90,c.jpg\n".replace("LAT", "lat"))
    places = read_csv(path, tmp_path, 0.01)
    assert places.paths == [tmp_path / "a/b.jpg", tmp_path / "c.jpg"]
    assert places.positions.tolist() == [[48.8584, 2.2945], [-90, -180]]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimals_of_spreadsheets_and_headers_of_exiftool(separator: str, tmp_path: Path) -> None:
    rows = ("photo,GPSLatitude,GPSLongitude", "a.jpg,48#8584,-2#2945")
    path = table(tmp_path, "\n".join(rows).replace(",", separator).replace("#", ","))
    assert read_csv(path, tmp_path, 0).positions.tolist() == [[48.8584, -2.2945]]


def test_a_few_unusable_rows_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = [f"{i}.jpg,{i % 90},{1 + i}" for i in range(95)]
    bad = ["a.jpg,91,181", "b.jpg,120.5,45", "c.jpg,-130,20", "d.jpg,,3", "e.jpg,north,3", "f.jpg,0.0,0"]
    path = table(tmp_path, HEADER + "\n".join([*good, *bad]))
    with caplog.at_level(logging.WARNING):
        assert len(read_csv(path, tmp_path, 0.06)) == 95
    assert caplog.messages == [
        f"{path}: 6 of 101 rows cannot be used: 1 out of range (first: line 97, a.jpg,91,181), "
        "2 with latitude and longitude swapped (first: line 98, b.jpg,120.5,45), "
        "1 without a position (first: line 100, d.jpg,,3), 1 without numbers (first: line 101, e.jpg,north,3), "
        "1 at latitude 0 and longitude 0 (first: line 102, f.jpg,0.0,0)"
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEADER + "a.jpg,91,181\n", "1 of 1 rows cannot be used: 1 out of range (first: line 2, a.jpg,91,181)"),
        (HEADER + "a.jpg,1,1\nb.jpg,100,1\n", "with latitude and longitude swapped (first: line 3, b.jpg,100,1)"),
        (HEADER + "a.jpg,inf,1\n", "out of range"),
        (HEADER + "a.jpg\n", "without numbers"),
        ("", "is empty or has no column path; its header is absent"),
        (HEADER, "has no photos"),
        ("path,latitude\na.jpg,1\n", "has no column longitude; its header is path,latitude"),
    ],
)
def test_a_file_that_cannot_be_used(text: str, words: str, tmp_path: Path) -> None:
    path = table(tmp_path, text)
    with pytest.raises(UserError) as error:
        read_csv(path, tmp_path, 0.01)
    assert words in str(error.value)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_the_root_of_the_file_system_is_a_root(tmp_path: Path) -> None:
    """As in a container."""
    path = table(tmp_path, HEADER + f"{tmp_path.relative_to('/')}/a.jpg,1,2\n")
    assert read_csv(path, Path("/"), 0).paths == [tmp_path / "a.jpg"]


def test_files_that_are_no_text_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "photo.csv").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UserError, match=r"photo\.csv cannot be read"):
        read_csv(tmp_path / "photo.csv", tmp_path, 0.01)
    with pytest.raises(UserError, match=r"no\.csv cannot be read: No such file or directory"):
        read_csv(tmp_path / "no.csv", tmp_path, 0.01)


# --- EXIF ----------------------------------------------------------------------------------------------


def photo(path: Path, gps: dict[int, object]) -> Path:
    image, exif = Image.new("RGB", (8, 8)), Image.Exif()
    exif.get_ifd(0x8825).update(gps)
    image.save(path, exif=exif)
    return path


def test_real_photos(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        places = read_folder(shared("data/exif"))
    found = {path.name: position for path, position in zip(places.paths, places.positions, strict=True)}
    assert set(found) == {"67-0_length_string.jpg", "DSCN0010.jpg", "DSCN0029.jpg", "Kodak_CX7530.jpg"}
    np.testing.assert_allclose(found["Kodak_CX7530.jpg"], [-0.371, 36.056], atol=1e-3)  # as its README says
    np.testing.assert_allclose(found["DSCN0010.jpg"], [43.467, 11.885], atol=1e-3)  # Arezzo
    (message,) = caplog.messages
    assert "2 of 6 photos cannot be used: 2 with no GPS position in its EXIF (first: 32-lens_data.jpeg)" in message


def test_hemispheres(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg", {1: "S", 2: (33.0, 30.0, 36.0), 3: "W", 4: (70.0, 45.0, 0.0)})
    assert exif_position(path) == pytest.approx((-33.51, -70.75))


@pytest.mark.parametrize(
    ("gps", "words"),
    [
        ({}, "no GPS position in its EXIF"),
        ({1: "?", 2: (33.0, 30.0, 36.0), 3: "W", 4: (70.0, 45.0, 0.0)}, "no GPS position in its EXIF"),
        ({1: "N", 2: (91.0, 0.0, 0.0), 3: "E", 4: (181.0, 0.0, 0.0)}, "a GPS position out of range"),
        ({1: "N", 2: (1.0, 0.0, 0.0)}, "no GPS position in its EXIF"),
        ({1: "N", 2: (UNSET, UNSET, UNSET), 3: "E", 4: (UNSET, UNSET, UNSET)}, "no GPS position in its EXIF"),
        ({1: "N", 2: (0.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0)}, "a GPS position at latitude 0 and longitude 0"),
    ],
)
def test_a_photo_without_a_position(gps: dict[int, object], words: str, tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg", gps)
    assert exif_position(path) == words
    said = "none of its 1 photos has a GPS position in its EXIF; give a table with latitude and longitude"
    if words != "no GPS position in its EXIF":
        said = rf"1 of 1 photos cannot be used: 1 with {words} \(first: a\.jpg\)$"
    with pytest.raises(UserError, match=said):
        read_folder(tmp_path)
    assert not has_positions(tmp_path)


def test_positions_of_google_takeout_are_not_read(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg", {})
    (tmp_path / "a.jpg.supplemental-metadata.json").touch()
    said = (
        r"its EXIF \(a\.jpg\.supplemental-metadata\.json and the like, of Google Takeout, are not read\); give a table"
    )
    with pytest.raises(UserError, match=said):
        read_folder(tmp_path)


def test_spaces_around_values(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    places = read_csv(table(tmp_path, "latitude, longitude, path, split\n 1.5, 2, a.jpg, train\n"), tmp_path, 0)
    assert places.paths == [tmp_path / "a.jpg"]
    assert places.positions.tolist() == [[1.5, 2.0]]


def test_some_photos_have_positions(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    photo(tmp_path / "none.jpg", {})
    assert not has_positions(tmp_path)
    photo(tmp_path / "some.jpg", {1: "N", 2: (33.0, 30.0, 36.0), 3: "W", 4: (70.0, 45.0, 0.0)})
    assert has_positions(tmp_path)


def test_a_folder_without_photos(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no photos"):
        read_folder(tmp_path)


def test_photos_of_a_phone_that_are_not_read_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "IMG_0002.HEIC").touch()
    with pytest.raises(UserError, match=r"1 \.heic files are not read: convert them to JPEG"):
        read_folder(tmp_path)
    photo(tmp_path / "a.jpg", {1: "N", 2: (33.0, 30.0, 36.0), 3: "W", 4: (70.0, 45.0, 0.0)})
    assert len(read_folder(tmp_path)) == 1
    assert caplog.messages == [f"{tmp_path}: 1 .heic files are not read: convert them to JPEG"]


@pytest.mark.parametrize(
    ("folders", "settings"),
    [
        (("Train", "Rome", "Lisbon"), {"train": ".", "val": None}),
        (("train", "val", "Rome"), {"train": "train", "val": "val", "test": None}),
        (("Train", "notes"), {"train": "Train", "val": None, "test": None}),
        (("train", "gallery"), {"train": "train", "val": None, "test": None}),
    ],
)
def test_an_album_called_train_is_no_split(folders: tuple[str, ...], settings: dict[str, Any], tmp_path: Path) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir()
        if folder != "notes":
            photo(tmp_path / folder / "a.jpg", {})
    assert recognize(tmp_path, "_geo").settings == settings


# --- the data set --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "earth"
    write_earth(folder, train=120, val=6, gallery=4, size=32, generated=True)
    return folder


PLAIN: dict[str, Any] = {"min_level": 0, "crop": 1.0, "flip": False, "photometric": 0.0}


def data(root: Path, **changes: Any) -> GeoData:
    names = {"train": "train.csv", "val": "val.csv", "test": None, "gallery": None}
    settings: dict[str, Any] = {"max_photos": [40, 10], "min_photos": 3, "batch_size": 5, "workers": 0, **PLAIN}
    return GeoData(str(root), 32, **names | settings | changes)


def test_only_photos_in_a_kept_cell_train(root: Path) -> None:
    found = data(root)
    cells = found.hierarchy.assign(*found.places("train").positions.T)
    train = found.build_dataset("train")
    assert 0 < len(train) == (cells[:, -1] >= 0).sum() < 120
    assert len(found.build_dataset("val")) == 6
    (finest,) = {len(found.hierarchy.partitions[-1])}
    assert len([label for label in found.labels if label.startswith("1/")]) == finest


def test_a_batch_belongs_together(root: Path) -> None:
    found = data(root)
    batch = next(iter(found.val_dataloader()))
    assert batch.images.shape == (5, 3, 32, 32)
    np.testing.assert_allclose(batch.positions, found.places("val").positions[batch.rows], atol=2e-5)
    expected = found.hierarchy.assign(*found.places("val").positions[batch.rows].T)
    np.testing.assert_array_equal(batch.cells, expected)


def test_an_unreadable_image_is_replaced_and_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "train").symlink_to(root / "train")
    rows = "\n".join(f"train/{i:06d}.jpg,1.0,1.0" for i in range(4))
    (tmp_path / "train.csv").write_text(f"{HEADER}{tmp_path}/none.jpg,1.0,1.0\n{rows}\n")
    batch = next(iter(data(tmp_path, val="train.csv").val_dataloader()))
    assert batch.bad == [(f"{tmp_path}/none.jpg", "there is no such file")]
    assert batch.rows.tolist() == [1, 1, 2, 3, 4]


def test_partitions_given_as_files(root: Path, tmp_path: Path) -> None:
    made = data(root)
    for i, partition in enumerate(made.hierarchy.partitions):
        partition.save(tmp_path / f"cells-{i}.csv")
    given = data(root, partition=[str(tmp_path / "cells-0.csv"), str(tmp_path / "cells-1.csv")])
    assert given.labels == made.labels
    (tmp_path / "torn.csv").write_text((tmp_path / "cells-0.csv").read_text()[:-9])
    for name, words in (("torn.csv", "is not a valid partition file"), ("none.csv", "cannot read the partition")):
        with pytest.raises(UserError, match=words) as error:
            _ = data(root, partition=[str(tmp_path / name)]).labels
        assert "\n" not in str(error.value)


def test_equal_partitions_are_made_once(root: Path) -> None:
    """But a resumed run keeps its own, for each of which it has a head."""
    found = data(root, max_photos=[40, 40, 10])
    assert found.labels == data(root).labels
    resumed = data(root, max_photos=[40, 40, 10])
    latitude, longitude = found.places("train").positions.T
    resumed.known = Hierarchy.build(latitude, longitude, resumed.settings).labels
    assert resumed.labels == resumed.known != found.labels
    part = data(root, max_photos=[40, 40, 10])
    joint = JointData({"geo": part}, names=["geo"], temperature=0.0, source=None, resolution=32)
    joint.known = [f"geo/{label}" for label in resumed.known]
    assert joint.labels == joint.known


def test_photos_of_one_cell(tmp_path: Path) -> None:
    for i in range(6):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
    for split in ("train", "val"):
        (tmp_path / f"{split}.csv").write_text(HEADER + "".join(f"{i}.png,{40 + i // 3},2.0\n" for i in range(6)))
    with pytest.raises(UserError, match=r"lie in one cell; lower data\.max_photos and data\.min_photos"):
        data(tmp_path, max_photos=[6]).check()
    data(tmp_path, max_photos=[3]).check()


def test_a_split_that_is_not_there_is_missed_at_once(root: Path) -> None:
    with pytest.raises(UserError, match=r"data\.val: there is neither a file nor a folder .*none\.csv"):
        data(root, val="none.csv").prepare()


def test_photos_of_one_place_leave_none_for_val(tmp_path: Path) -> None:
    for i in range(6):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
    (tmp_path / "train.csv").write_text(HEADER + "".join(f"{i}.png,48.85841,2.2945\n" for i in range(6)))
    with pytest.raises(UserError, match=r"no photos are left for val, .* set data\.val= to the validation photos"):
        data(tmp_path, val=None).check()


def test_settings_that_leave_no_cell(root: Path) -> None:
    with pytest.raises(UserError, match=r"120 photos with positions are too few to train on: .* data\.min_photos=500"):
        _ = data(root, max_photos=[500], min_photos=500).labels
    with pytest.raises(UserError, match="the partition has no cell left: none holds min_photos=119"):
        _ = data(root, max_photos=[119], min_photos=119).labels
    with pytest.raises(UserError, match="it must be that 1 <= min_photos <= max_photos"):
        data(root, max_photos=[10], min_photos=50)


@pytest.mark.parametrize("cached", [False, True])
def test_photos_are_turned_upright(cached: bool, tmp_path: Path) -> None:
    """As in predictions: a phone stores an upright photo on its side."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    stored = np.zeros((30, 40, 3), np.uint8)
    stored[:, :20] = 255  # the left half, which is on top when upright
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    places, cells = Places([tmp_path / "a.png"], np.zeros((1, 2))), np.zeros((1, 1), np.int64)
    (row,) = DataLoader(GeoSet(places, cells, PhotoView(32, full_image, v2.Compose([v2.Identity()])), cached), None)
    assert row["sizes"].tolist() == [40, 30]
    assert row["images"].shape == (3, 32, 32)
    assert (row["images"][:, :14] == 255).all()
    assert (row["images"][:, 18:] == 0).all()


@pytest.mark.parametrize("cached", [False, True])
def test_all_splits_see_the_whole_photo_as_a_square(cached: bool, root: Path, tmp_path: Path) -> None:
    """As in predictions, whatever its aspect ratio: crops for training are taken from the square."""
    stored = np.zeros((80, 320, 3), np.uint8)
    stored[:, :80, 0] = 255
    stored[:, 240:, 2] = 255
    Image.fromarray(stored).save(tmp_path / "a.png")
    places, cells = Places([tmp_path / "a.png"], np.zeros((1, 2))), np.zeros((1, 1), np.int64)
    photos = GeoSet(places, cells, data(root, crop=0.9).view("train"), cached)
    for image in [photos[0]["images"] for _ in range(4)]:
        assert image.shape == (3, 32, 32)
        assert (image[0, :, 0] > 200).all()
        assert (image[2, :, -1] > 200).all()
    assert [kept.shape for kept, _ in photos.reader.images.values()] == [(3, 40, 40)] * cached
    image = GeoSet(places, cells, data(root).view("val"), cached)[0]["images"]
    difference = (image.float() - read_whole(tmp_path / "a.png", 32).float()).abs()
    assert difference.mean() < (2 if cached else 0.1)
