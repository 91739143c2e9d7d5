"""Random splits: shares, groups, and what is kept of an earlier draw."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbones.errors import UserError
from data.splits import draw_splits

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
