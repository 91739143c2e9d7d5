"""Random splits: shares, groups, and what is kept of an earlier draw; and splits that a table gives."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbones.errors import UserError
from data.base import SPLITS
from data.csv_images import CsvData
from data.geo.places import GeoData
from data.splits import draw_splits, splits_of_folders
from tests.data.geo.test_places import PLAIN
from tests.data.test_layouts_images import images, table

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=60)  # stratum and group


@given(ROWS)
def test_groups_stay_together_and_no_stratum_is_in_val_alone(rows: list[tuple[int, int]]) -> None:
    keys = [str(i) for i in range(len(rows))]
    strata, groups = zip(*rows, strict=True)
    drawn = draw_splits(Path("/nowhere"), keys, strata, groups)  # where nothing can be written
    assert drawn == draw_splits(Path("/nowhere"), keys, strata, groups)
    assert all(len({drawn[k] for k, g in zip(keys, groups, strict=True) if g == group}) == 1 for group in groups)
    assert {s for k, s in zip(keys, strata, strict=True) if drawn[k] == "train"} == {*strata}


def test_a_fifth_of_each_stratum(tmp_path: Path) -> None:
    keys = [f"{i:03d}" for i in range(200)]
    strata = ["many" if i < 150 else "few" for i in range(200)]
    drawn = draw_splits(tmp_path, keys, strata)
    assert Counter(s for k, s in zip(keys, strata, strict=True) if drawn[k] == "val") == {"many": 30, "few": 10}
    # a large group must not be most of val
    groups = [0 if i < 55 else i // 5 for i in range(200)]
    drawn = draw_splits(tmp_path, keys, strata, groups, "by_group.json")
    assert drawn["000"] == "train"
    assert 30 <= Counter(drawn.values())["val"] <= 40


def test_the_only_one_of_a_stratum_stays_in_train(tmp_path: Path) -> None:
    """Though its group, which is large, would otherwise go to val."""
    groups = [0] * 6 + [1 + i // 5 for i in range(50)]
    drawn = draw_splits(tmp_path, [str(i) for i in range(56)], ["rare", *["often"] * 55], groups)
    assert drawn["0"] == "train"


def test_what_was_drawn_stays_when_images_are_added(tmp_path: Path) -> None:
    keys = [str(i) for i in range(20)]
    first = draw_splits(tmp_path, keys, groups=[i // 2 for i in range(20)])
    more = [*keys, *(str(i) for i in range(20, 32))]  # one more of each group, and two of new groups
    second = draw_splits(tmp_path, more, groups=[*(i // 2 for i in range(20)), *range(12)])
    assert {k: second[k] for k in keys} == first
    assert [second[str(20 + i)] for i in range(10)] == [first[str(2 * i)] for i in range(10)]
    kept = json.loads((tmp_path / "splits.json").read_text())
    assert {"train": 0, "val": 0}.keys() == kept.keys()
    assert sorted(kept["train"] + kept["val"]) == sorted(more)
    assert draw_splits(tmp_path, ["of another task"]) == {"of another task": "train"}
    assert draw_splits(tmp_path, keys) == first
    for content in ("[]", '{"train": 3, "val": []}'):
        (tmp_path / "splits.json").write_text(content)
        with pytest.raises(UserError, match=r"splits\.json should hold the lists train and val; delete it"):
            draw_splits(tmp_path, keys)


@pytest.mark.parametrize("count", [2, 10, 50])
def test_strata_of_two(count: int, tmp_path: Path) -> None:
    """A fifth of two rounds to none, but val still has a fifth of all."""
    keys = [f"{i:03d}" for i in range(2 * count)]
    drawn = draw_splits(tmp_path, keys, [i // 2 for i in range(2 * count)])
    val = {int(key) // 2 for key, split in drawn.items() if split == "val"}
    assert len(val) == Counter(drawn.values())["val"] == max(1, 2 * count // 5)


# --- splits that a table, or the folders of its images, give ----------------------------------------------------------

CELLS: dict[str, Any] = {"gallery": None, "max_photos": [10], "min_photos": 1, **PLAIN}


def given_by(root: Path, words: str, folders: str = "") -> tuple[list[dict[str, list[int]]], list[str]]:
    """The numbers of the images in each split, and what is told: of a table of classes and of one of places. `words`
    are the images' values in the column `Data Set`, `folders` their folders.
    """
    names = [f"{folder}/{i}.png" for i, folder in enumerate(folders.split() or ["."] * len(words.split()))]
    images(*names, root=root)
    columns = zip(names, words.split() or [""] * len(names), strict=True)
    rows = [f"{name},{word.strip('-')},{'ab'[i % 2]},{i + 1},{i + 2}" for i, (name, word) in enumerate(columns)]
    table(root, "metadata.csv", "image,Data Set,label,lat,lon", *rows)
    settings: dict[str, Any] = {"train": "metadata.csv", "val": None, "test": None}
    classes, places = CsvData(str(root), 32, **settings), GeoData(str(root), 32, **settings, **CELLS)
    found = [{str(s): sorted(int(sample.path.stem) for sample in classes.samples(s)) for s in SPLITS}]
    found.append({str(s): sorted(int(path.stem) for path in places.places(s).paths) for s in SPLITS})
    return found, [classes.choices, places.choices]


def test_the_folders_of_a_table_s_images_are_its_splits(tmp_path: Path) -> None:
    found, told = given_by(tmp_path, "", "train train valid train val test_images train")
    assert found == [{"train": [0, 1, 3, 6], "val": [2, 4], "test": [5]}] * 2
    assert all("splits by the images' folders" in words for words in told)
    assert not any(tmp_path.glob("splits*.json"))


def test_images_of_test_are_val_s_if_it_has_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found, told = given_by(tmp_path, "", "a/train a/train a/test a/extra a/train")
    assert found == [{"train": [0, 1, 4], "val": [2], "test": [2]}] * 2
    assert all("val is test" in words for words in told)
    left = "1 of 5 images are left out, as their split is not train, val or test but a/extra (1)"
    assert len([message for message in caplog.messages if left in message]) == 2


def test_albums_are_no_splits(tmp_path: Path) -> None:
    """A name with further words counts only if all folders have one."""
    found, told = given_by(tmp_path, "", "Train_ride_Bernina Val_d'Isere Rome Lisbon Oslo " * 2)
    assert [[len(images) for images in splits.values()] for splits in found] == [[8, 2, 2]] * 2
    assert not any("folders" in words for words in told)


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (["train_images", "val_images", "more"], ["train", "val", None]),
        (["Train ride", "Val d'Isere", "more"], []),
        (["Train ride", "Val d'Isere"], ["train", "val"]),
        (["train", "test_images"], ["train", "test"]),
        (["train", "test_images", "more"], []),
        (["Train", "TEST", "train_old"], ["train", "test", "train"]),
    ],
)
def test_folders_with_further_words(folders: list[str], splits: list[str | None]) -> None:
    assert splits_of_folders([f"{folder}/1.jpg" for folder in folders]) == splits


def test_a_column_of_splits_is_stronger_than_folders(tmp_path: Path) -> None:
    found, told = given_by(tmp_path, "train train valid TEST", "train test train val")
    assert found == [{"train": [0, 1], "val": [2], "test": [3]}] * 2
    assert all("splits by the" in words and "folders" not in words for words in told)


def test_an_unknown_word_in_a_column_of_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its rows are left out: they may be test's."""
    found, _ = given_by(tmp_path, "Training Training PublicTest PrivateTest holdout - train")
    assert found == [{"train": [0, 1, 6], "val": [2], "test": [3]}] * 2
    left = "2 of 7 images are left out, as their split is not train, val or test but holdout (1), nothing (1)"
    assert len([message for message in caplog.messages if left in message]) == 2


def test_val_is_drawn_from_train_if_no_other_split_is_known(tmp_path: Path) -> None:
    found, told = given_by(tmp_path, "train " * 10 + "holdout")
    assert [[len(images) for images in splits.values()] for splits in found] == [[8, 2, 2]] * 2
    assert all("a random fifth" in words for words in told)
    assert all(10 not in images for splits in found for images in splits.values())
