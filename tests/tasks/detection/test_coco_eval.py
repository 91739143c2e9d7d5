"""Average precision against pycocotools, the reference."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from data.detection import Record
from tasks.detection.coco_eval import CocoEvaluator, ground_truth, summary

LABELS = ["cat", "dog", "owl"]


NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def random_case(seed: int, images: int = 45) -> tuple[list[Record], CocoEvaluator]:
    """Crowds, classes without objects, images without either, and one with more detections than COCO counts."""
    rng = np.random.default_rng(seed)
    records, evaluator = [], CocoEvaluator()
    for image_id in range(images):
        count = int(rng.integers(0, 6))
        corner = rng.uniform(0, 200, (count, 2)).round()
        boxes = np.concatenate([corner, corner + rng.uniform(5, 150, (count, 2)).round()], axis=1).astype(np.float32)
        labels = rng.integers(0, 2, count)  # there are no owls
        sides = boxes[:, 2:] - boxes[:, :2]
        records.append(
            Record(Path(), image_id, boxes, labels, sides.prod(axis=1), rng.random(count) < 0.1, np.zeros(count, bool))
        )
        others = 260 if image_id == 7 else 2
        shift = rng.normal(0, 6, boxes.shape).round()
        found = np.concatenate([boxes + shift, rng.uniform(0, 200, (others, 4))]).astype(np.float32)
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        guesses = np.concatenate([labels, rng.integers(0, 3, others)])
        evaluator.add(image_id, found, rng.random(len(found)).round(2), guesses)  # with ties
    return records, evaluator


def figures(records: list[Record], evaluator: CocoEvaluator) -> dict[str, float]:
    return summary(evaluator.precision(records, LABELS), LABELS)


@pytest.mark.parametrize("seed", range(3))
def test_it_agrees_with_pycocotools(seed: int) -> None:
    records, evaluator = random_case(seed)
    ours = figures(records, evaluator)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = ground_truth(records, LABELS)
        truth.createIndex()
        rows = np.concatenate([np.insert(rows, 0, i, axis=1) for i, rows in evaluator.found.items()])
        rows[:, 3:5] -= rows[:, 1:3]
        rows[:, 6] += 1
        reference = COCOeval(truth, truth.loadRes(rows), "bbox")
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    assert [ours[n] for n in NAMES] == pytest.approx(list(reference.stats[:6]), abs=1e-9)
    assert ours["ap/owl"] == ours["ap50/owl"] == -1

    evaluator.backend = "pycocotools"
    assert figures(records, evaluator) == pytest.approx(ours, abs=1e-9)


def test_an_image_counts_once() -> None:
    records, evaluator = random_case(0)
    once = figures(records, evaluator)
    rows = evaluator.found[3]
    evaluator.add(3, rows[:, :4], rows[:, 4], rows[:, 5])
    assert figures(records, evaluator) == once


@pytest.mark.parametrize("backend", ["faster", "pycocotools"])
def test_nothing_found(backend: str) -> None:
    records, evaluator = random_case(0)
    evaluator.backend = backend  # type: ignore[assignment]  # the parameter is a plain str
    for image_id in list(evaluator.found):
        evaluator.add(image_id, np.zeros((0, 4)), np.zeros(0), np.zeros(0))
    assert figures(records, evaluator)["ap"] == 0
    evaluator.found = {}
    assert figures(records, evaluator)["ap"] == -1
