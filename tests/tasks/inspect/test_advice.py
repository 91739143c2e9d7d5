"""What is advised for a data set: by sizes and numbers that are worked out here by hand."""

from pathlib import Path

import numpy as np
import pytest

from tasks.engine.config import load_config
from tasks.inspect.advice import Advice, advise
from tasks.inspect.contents import Contents
from tasks.inspect.files import FileInfo

CONFIG = load_config(["task=detection"])  # 320 px


def advice(side: float, size: tuple[int, int] = (640, 480), owls: int = 20) -> list[Advice]:
    """For images of a size in pixels with a box of `side` of theirs: cats in 20, dogs in 20, and 20 owls in fewer."""
    row = np.concatenate([np.arange(40), 40 + np.arange(20) % owls])
    count = 40 + owls
    box = np.array([0, 0, side * size[0], side * size[1]])
    contents = Contents(
        names=["cat", "dog", "owl"],
        splits=["train"],
        same={},
        paths=[Path(f"{i}.jpg") for i in range(count)],
        split=np.zeros(count, np.int64),
        row=row,
        label=np.repeat([0, 1, 2], 20),
        boxes=np.tile(box, (len(row), 1)),
        crowd=np.zeros(len(row), bool),
        difficult=np.zeros(len(row), bool),
        unlabelled=np.zeros(count, bool),
    )
    return advise(contents, [FileInfo(width=size[0], height=size[1])] * count, CONFIG)


def test_no_advice() -> None:
    """On boxes of a quarter of large enough images, and classes of similar size."""
    assert advice(0.25) == []
    assert advice(0.25, owls=6) == []


@pytest.mark.parametrize(
    ("side", "size", "wanted"),
    [
        (0.034, (640, 480), "480"),  # 16 / 0.034 is 471, rounded up to 480
        (0.034, (400, 300), None),  # enlarged images have no more detail
        (0.01, (900, 900), "640"),  # the highest
        (0.01, (640, 480), "544"),  # as many pixels as the images have
    ],
)
def test_small_boxes_need_a_higher_resolution(side: float, size: tuple[int, int], wanted: str | None) -> None:
    found = advice(side, size)
    assert [row.settings for row in found] == ([f"task.resolution={wanted}"] if wanted else [])
    if wanted:
        assert f"under {side:.1%} of their image's side" in found[0].why
        assert f"{side * int(wanted):.0f} of {wanted} pixels" in found[0].why


def test_a_rare_class_is_drawn_more_often() -> None:
    """The median class is in 20 of 45 images."""
    assert advice(0.25, owls=5) == [Advice("data.balance=0.4", "owl is in 5 images, the median class in 20")]


def test_huge_images_are_better_made_smaller() -> None:
    words = "half of the images have over 3.0 megapixels: smaller copies load faster"
    assert advice(0.25, (2000, 1500)) == [Advice("", words)]
