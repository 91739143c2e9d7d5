"""Threads that work ahead: order, bounds and errors; and their use in predictions."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbones.errors import UserError
from tasks.engine.results import Result
from tasks.inference.predictor import Predictor
from tasks.inference.prefetch import prefetch


def test_results_come_in_order_and_no_more_is_taken_than_is_allowed() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(40):
            taken.append(i)
            yield i

    def call(i: int) -> int:
        time.sleep(0.002 * (i % 3))  # later ones are ready earlier
        return i

    found = []
    for i in prefetch(call, items(), 4, 6):
        found.append(i)
        assert len(taken) - len(found) < 6
    assert found == list(range(40))


def test_an_error_comes_in_its_turn_and_threads_end_with_their_user() -> None:
    def call(i: int) -> int:
        if i == 5:
            raise ValueError("five")
        return i

    found: list[int] = []
    with pytest.raises(ValueError, match="five"):
        found.extend(prefetch(call, range(10), 3, 8))
    assert found == list(range(5))
    before = threading.active_count()
    results = prefetch(call, iter(range(10)), 3, 4)
    assert next(results) == 0
    assert threading.active_count() > before
    results.close()
    assert threading.active_count() == before


class Mean(Predictor):
    """Answers with the mean of an image."""

    task, class_names, result_type, view_side = "mean", [], Result, 1

    def view(self, pixels: np.ndarray) -> float:
        return float(pixels.mean())

    def predict_batch(self, views: list[float], sizes: list[tuple[int, int]]) -> list[dict[str, float]]:
        return [{"mean": view} for view in views]


def test_many_images_of_all_kinds_are_answered_in_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sources: list = []
    for i in range(60):
        pixels = np.full((4, 6, 3), i, np.uint8)
        path = tmp_path / f"{i}.png"
        Image.fromarray(pixels).save(path)
        sources.append([path, pixels, Image.fromarray(pixels), str(path)][i % 4])
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8")
    results = [*Mean().predict(sources, batch_size=7)]
    assert [result.to_dict()["mean"] for result in results] == list(range(60))
    sources.insert(31, tmp_path / "torn.jpg")
    skipping = [*Mean().predict(sources, batch_size=7, skip_unreadable=True)]
    assert [result.to_dict()["mean"] for result in skipping] == list(range(60))
    assert [r.message for r in caplog.records if "torn.jpg" in r.message]
    found: list[float] = []
    with pytest.raises(UserError, match=r"torn\.jpg"):
        found.extend(result.to_dict()["mean"] for result in Mean().predict(sources, batch_size=1))
    assert found == list(range(31))
    found.clear()
    with pytest.raises(UserError, match="an array must be RGB"):
        found.extend(r.to_dict()["mean"] for r in Mean().predict([*sources[:3], np.zeros(3)], batch_size=1))
    assert found == [0, 1, 2]
