"""Partitions against a plain recursion."""

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike

from backbones.errors import UserError
from data.geo import s2
from data.geo.cells import Hierarchy, Partition, PartitionSettings
from data.geo.s2 import cell_ids
from tests.data.geo.test_s2 import cells_at, random_positions

SMALL = PartitionSettings(max_photos=60, min_photos=5)


def build(latitude: ArrayLike, longitude: ArrayLike, settings: PartitionSettings) -> Partition:
    return Hierarchy.build(latitude, longitude, [settings]).partitions[0]


def assign(partition: Partition, latitude: ArrayLike, longitude: ArrayLike) -> np.ndarray:
    """Index (N,) of the cell that holds each position."""
    return Hierarchy((partition,)).assign(latitude, longitude)[:, 0]


@pytest.fixture(scope="module")
def photos() -> tuple[np.ndarray, np.ndarray]:
    """Positions (4000,) in clusters of any size, over a thin background, some of them equal."""
    rng = np.random.default_rng(7)
    city = rng.zipf(1.5, 3000) % 40
    latitude = rng.uniform(-70, 70, 40)[city] + rng.normal(0, 0.2, 3000)
    longitude = rng.uniform(-179, 179, 40)[city] + rng.normal(0, 0.2, 3000)
    latitude = np.concatenate([latitude, rng.uniform(-90, 90, 900), np.full(100, 48.8584)])
    return latitude, np.concatenate([longitude, rng.uniform(-180, 180, 900), np.full(100, 2.2945)])


# --- partition -----------------------------------------------------------------------------------------


def recursive_partition(
    latitude: np.ndarray, longitude: np.ndarray, settings: PartitionSettings
) -> dict[int, list[int]]:
    """Cell id -> rows of its photos, by the definition: split above t1, then drop below t2."""
    kept: dict[int, list[int]] = {}

    def visit(rows: list[int], level: int) -> None:
        split = len(rows) > settings.max_photos or level < settings.min_level
        if not split or level == settings.max_level:
            if len(rows) >= settings.min_photos:
                kept[ids_by_level[level][rows[0]]] = rows
            return
        children: dict[int, list[int]] = {}
        for row in rows:
            children.setdefault(ids_by_level[level + 1][row], []).append(row)
        for child in children.values():
            visit(child, level + 1)

    ids_by_level = [cells_at(latitude, longitude, level).tolist() for level in range(31)]
    for face in set(ids_by_level[0]):
        visit([row for row, cell in enumerate(ids_by_level[0]) if cell == face], 0)
    return kept


@pytest.mark.parametrize(
    "settings",
    [SMALL, PartitionSettings(60, 1, 4, 9), PartitionSettings(9, 9, 2, 30), PartitionSettings(4000, 1, 0, 0)],
    ids=str,
)
def test_partition_is_that_of_a_plain_recursion(
    photos: tuple[np.ndarray, np.ndarray], settings: PartitionSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s2, "_CHUNK", 97)  # so that cells span chunks
    latitude, longitude = photos
    partition = build(latitude, longitude, settings)
    expected = recursive_partition(latitude, longitude, settings)
    assert partition.ids.tolist() == sorted(expected)
    index = assign(partition, latitude, longitude)
    phi, theta = np.radians(latitude), np.radians(longitude)
    vectors = np.stack([np.cos(phi) * np.cos(theta), np.cos(phi) * np.sin(theta), np.sin(phi)])
    for place, cell in enumerate(partition.ids.tolist()):
        rows = expected[cell]
        assert partition.counts[place] == len(rows)
        assert np.flatnonzero(index == place).tolist() == sorted(rows)
        x, y, z = vectors[:, rows].mean(axis=1)
        assert partition.latitude[place] == pytest.approx(np.degrees(np.arctan2(z, np.hypot(x, y))), abs=2e-7)
        assert partition.longitude[place] == pytest.approx(np.degrees(np.arctan2(y, x)), abs=1e-6)
    assert (index >= 0).sum() == partition.counts.sum() == sum(map(len, expected.values()))
    assert partition.photos == 4000


def test_mean_position_crosses_the_antimeridian() -> None:
    partition = build([10.0, 10.0], [179.0, -179.0], PartitionSettings(2, 2))
    assert len(partition) == 1
    assert partition.longitude[0] == pytest.approx(180) or partition.longitude[0] == pytest.approx(-180)
    assert partition.latitude[0] == pytest.approx(10.0, abs=0.01)


def test_positions_outside_every_cell_have_no_index() -> None:
    partition = build(np.full(9, 48.8584), np.full(9, 2.2945), PartitionSettings(5, 1, 0, 12))
    assert len(partition) == 1
    assert assign(partition, [48.8584, -33.9, 80.0], [2.2945, 18.4, -179.9]).tolist() == [0, -1, -1]


# --- hierarchy -----------------------------------------------------------------------------------------


def test_each_fine_cell_lies_in_a_coarse_one(photos: tuple[np.ndarray, np.ndarray]) -> None:
    settings = [PartitionSettings(400, 5), PartitionSettings(150, 5), PartitionSettings(60, 7, 3)]
    hierarchy = Hierarchy.build(*photos, settings)
    coarse, middle, fine = hierarchy.partitions
    assert len(coarse) < len(middle) < len(fine)
    assert fine.ids.tolist() == build(*photos, settings[2]).ids.tolist()
    assert hierarchy.parents.shape == (2, len(fine))
    for partition, parents in zip((coarse, middle), hierarchy.parents, strict=True):
        assert (parents >= 0).all()
        around = partition.ids[parents]
        assert (s2.range_min(around) <= s2.range_min(fine.ids)).all()
        assert (s2.range_max(fine.ids) <= s2.range_max(around)).all()
    labels = hierarchy.assign(*photos)
    kept = labels[:, 2] >= 0
    np.testing.assert_array_equal(hierarchy.parents[:, labels[kept, 2]].T, labels[kept, :2])


def test_fine_cell_without_a_coarse_one_is_marked(photos: tuple[np.ndarray, np.ndarray]) -> None:
    dropped = Hierarchy.build(*photos, [PartitionSettings(400, 300), SMALL])
    assert {-1} < set(dropped.parents[0].tolist())
    too_small = Hierarchy.build(*photos, [PartitionSettings(60, 5, 9), PartitionSettings(60, 5, 0, 3)])
    assert set(too_small.parents[0].tolist()) == {-1}
    assert Hierarchy.build(*photos, [SMALL]).parents.shape[0] == 0


def test_equal_partitions_are_left_out(photos: tuple[np.ndarray, np.ndarray]) -> None:
    coarse = PartitionSettings(400, 5)
    found = Hierarchy.build(*photos, [coarse, coarse, SMALL, SMALL, SMALL]).distinct()
    assert found.labels == Hierarchy.build(*photos, [coarse, SMALL]).labels
    assert found.distinct().labels == found.labels


# --- file ----------------------------------------------------------------------------------------------


def test_saved_partition_is_loaded_alike(photos: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    partition = build(*photos, SMALL)
    for _ in range(2):  # the second time overwrites the first
        partition.save(tmp_path / "cells.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["cells.csv"]
    loaded = Partition.load(tmp_path / "cells.csv")
    assert (loaded.settings, loaded.photos) == (SMALL, 4000)
    for name in ("ids", "counts", "latitude", "longitude"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(partition, name))
        assert getattr(loaded, name).dtype == getattr(partition, name).dtype
    head = (tmp_path / "cells.csv").read_text().splitlines()[:9]
    assert head[:3] == ["# format: planet-cells 1", "# max_photos: 60", "# min_photos: 5"]
    assert head[-1] == "token,count,latitude,longitude"


def test_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = build([1.0], [1.0], PartitionSettings(1, 1))
    partition.save(tmp_path / "cells.csv")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        partition.save(tmp_path / "cells.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["cells.csv"]
    assert len(Partition.load(tmp_path / "cells.csv")) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("planet-cells 1", "other", "does not begin with '# format: planet-cells 1'"),
        ("# kept: 3\n", "", "its header lacks kept"),
        ("# max_photos: 2", "# max_photos: two", "invalid literal for int"),
        ("# max_photos: 2", "# max_photos: 0", "it must be that 1 <= min_photos <= max_photos"),
        ("# cells: 2", "# cells: 3", "it should have 3 rows of token,count,latitude,longitude"),
        ("token,count,latitude,longitude\n", "", "it should have 2 rows"),
        (",2,", ",2,7,", "it should have 2 rows"),
        (",2,", ",two,", "invalid literal for int"),
        (",2,", f",{10**30},", "too large"),
        (",2,", ",0,", "its cells' counts do not fit its header"),
        ("# photos: 3", "# photos: 2", "its cells' counts do not fit its header"),
        ("\n5", "\n1", "its cells overlap or are not in order"),
        ("\n5", "\nz", "' is not the token of an S2 cell"),
        ("\n5", "\nf", "' is not the token of an S2 cell"),
        ("48.85", "98.85", "1 of 2 positions are not numbers or not within latitude -90 to 90"),
        ("48.85", "nan#", "could not convert string to float"),
        ("\n", "\n\u00e9", "can't decode byte"),
    ],
)
def test_damaged_file_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    partition = build([1.0, 48.8584, 48.8584], [1.0, 2.2945, 2.2945], PartitionSettings(2, 1))
    partition.save(path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        Partition.load(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path} is not a valid partition file: ")
    assert "\n" not in str(caught.value)


def test_truncated_and_missing_files_are_refused(photos: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    build(*photos, SMALL).save(path)
    whole = path.read_bytes()
    for length in (0, 10, 150, len(whole) // 2, len(whole) - 3, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="is not a valid partition file"):
            Partition.load(path)
    with pytest.raises(UserError, match=r"cannot read the partition .*none\.csv: No such file or directory"):
        Partition.load(tmp_path / "none.csv")


# --- messages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [91.0, -90.0000001, np.nan, np.inf])
def test_bad_positions_are_counted_and_the_first_is_named(bad: float) -> None:
    latitude = np.zeros(200_000)
    latitude[[150_000, 160_000]] = bad
    for call in (cell_ids, lambda lat, lon: build(lat, lon, SMALL)):
        with pytest.raises(UserError) as caught:
            call(latitude, np.zeros(200_000))
        assert str(caught.value).startswith("2 of 200,000 positions are not numbers or not within latitude -90 to 90")
        assert str(caught.value).endswith(f"first row 150000 (from 0): {bad}, 0.0")
    with pytest.raises(UserError, match=r"1 of 2 .* first row 1 \(from 0\): 0.0, 180.5"):
        cell_ids([0.0, 0.0], [0.0, 180.5])


def test_empty_input_has_its_own_message() -> None:
    with pytest.raises(UserError, match="a partition is made of photos with positions, and there are none"):
        build([], [], SMALL)


def test_partition_without_cells_says_which_thresholds_to_change() -> None:
    latitude, longitude = random_positions(1000)
    with pytest.raises(UserError) as caught:
        build(latitude, longitude, PartitionSettings(max_photos=60, min_photos=50, min_level=3))
    assert str(caught.value) == (
        "the partition has no cell left: none holds min_photos=50 of 1,000 photos; lower that, "
        "raise max_photos=60 or lower min_level=3"
    )


@pytest.mark.parametrize("wrong", [(10, 50), (10, 0), (10, 5, 8, 7), (10, 5, -1, 7), (10, 5, 0, 31)])
def test_contradicting_settings_fail(wrong: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"PartitionSettings\(max_photos=10, .*\): it must be that 1 <= min_photos"):
        PartitionSettings(*wrong)
