"""Detections that are drawn on an image, from a model's file that may say anything."""

import numpy as np
import pytest
from PIL import Image

from tasks.detection.results import DetectionResult


@pytest.mark.parametrize("name", ["cat", "cat " * 250_000])
@pytest.mark.parametrize("box", [[1e8] * 4, [-1e8, -1e8, 1e8, 1e8], [float("nan")] * 4, [1e30, -1e30, 3, float("inf")]])
def test_astronomical_boxes_and_endless_names_are_drawn(box: list[float], name: str) -> None:
    rows = [{"label": name, "score": 0.5, "box": box}]
    image = Image.new("RGB", (300, 200))
    drawn = DetectionResult({"detections": rows}, image, [name]).annotate(image)
    assert drawn.size == image.size


def test_a_box_inside_is_drawn_where_it_is() -> None:
    image = Image.new("RGB", (300, 200))
    rows = [{"label": "cat", "score": 0.5, "box": [20.0, 30.0, 120.0, 150.0]}]
    drawn = np.asarray(DetectionResult({"detections": rows}, image, ["cat"]).annotate(image))
    ys, xs = np.nonzero(drawn.any(axis=2))
    assert (xs.min(), ys.min(), xs.max(), ys.max()) == (20, 30, 120, 150)
