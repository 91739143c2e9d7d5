"""Average precision against pycocotools, the reference."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from data.detection import Record
from tasks.detection.coco_eval import CocoEvaluator, ground_truth

LABELS = ["cat", "dog", "owl"]


def random_case(seed: int) -> tuple[list[Record], CocoEvaluator]:
    rng = np.random.default_rng(seed)
    records, evaluator = [], CocoEvaluator()
    for image_id in range(12):
        count = int(rng.integers(0, 6))
        corner = rng.uniform(0, 200, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(5, 150, (count, 2))], axis=1).astype(np.float32)
        labels = rng.integers(0, 2, count)  # there are no owls
        sides = boxes[:, 2:] - boxes[:, :2]
        records.append(Record(Path(), image_id, boxes, labels, sides.prod(axis=1), rng.random(count) < 0.1))
        found = np.concatenate([boxes + rng.normal(0, 6, boxes.shape), rng.uniform(0, 200, (2, 4))])
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        guesses = np.concatenate([labels, rng.integers(0, 3, 2)])
        evaluator.add(image_id, found, rng.random(len(found)), guesses)
    return records, evaluator


@pytest.mark.parametrize("seed", range(3))
def test_it_agrees_with_pycocotools(seed: int) -> None:
    records, evaluator = random_case(seed)
    ours = evaluator.compute(records, LABELS)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = ground_truth(records, LABELS)
        truth.createIndex()
        rows = np.concatenate([np.insert(rows, 0, i, axis=1) for i, rows in evaluator.found.items()])
        reference = COCOeval(truth, truth.loadRes(rows), "bbox")
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    assert [ours[n] for n in names] == pytest.approx(list(reference.stats[:6]), abs=1e-9)
    assert ours["ap50/owl"] == -1


def test_a_picture_counts_once() -> None:
    records, evaluator = random_case(0)
    once = evaluator.compute(records, LABELS)
    x, y, width, height, scores, labels = evaluator.found[3].T
    evaluator.add(3, np.stack([x, y, x + width, y + height], axis=1), scores, labels - 1)
    assert evaluator.compute(records, LABELS) == once


def test_nothing_found() -> None:
    records, evaluator = random_case(0)
    for image_id in list(evaluator.found):
        evaluator.add(image_id, np.zeros((0, 4)), np.zeros(0), np.zeros(0))
    assert evaluator.compute(records, LABELS)["ap"] == 0
