"""Average precision against pycocotools, the reference."""

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from data.coco import read_coco
from data.detection import Record
from tasks.detection.coco_eval import CocoEvaluator, average, summary, xywh

LABELS = ["cat", "dog", "owl"]


NAMES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)


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
    return summary(evaluator.evaluate(records, LABELS), LABELS)


def ground_truth(records: list[Record]) -> dict[str, Any]:
    """The records as a COCO data set, with category ids from 1."""
    annotations = [
        {"image_id": r.image_id, "category_id": int(label) + 1, "bbox": box, "area": float(area), "iscrowd": int(crowd)}
        for r in records
        for box, label, area, crowd in zip(xywh(r.boxes).tolist(), r.labels, r.areas, r.crowd, strict=True)
    ]
    return {
        "images": [{"id": r.image_id} for r in records],
        "annotations": [{"id": i} | annotation for i, annotation in enumerate(annotations, start=1)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(LABELS, start=1)],
    }


def evaluated(truth: dict[str, Any], rows: np.ndarray) -> COCOeval:
    """By pycocotools, of rows of image, left, top, width, height, score and category."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        reference = COCOeval(coco, coco.loadRes(rows), "bbox")
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    return reference


@pytest.mark.parametrize("seed", range(3))
def test_it_agrees_with_pycocotools(seed: int) -> None:
    records, evaluator = random_case(seed)
    ours = figures(records, evaluator)
    rows = np.concatenate([np.insert(rows, 0, i, axis=1) for i, rows in evaluator.found.items()])
    rows[:, 3:5] -= rows[:, 1:3]
    rows[:, 6] += 1
    reference = evaluated(ground_truth(records), rows)
    assert [ours[n] for n in NAMES] == pytest.approx(reference.stats.tolist(), abs=1e-9)
    precision = reference.eval["precision"][..., 0, -1]  # at each IoU and recall, of each class
    for i, label in enumerate(LABELS):
        assert ours[f"ap/{label}"] == pytest.approx(average(precision[..., i]), abs=1e-9)
        assert ours[f"ap50/{label}"] == pytest.approx(average(precision[0, :, i]), abs=1e-9)
    assert ours["ap/owl"] == ours["ap50/owl"] == -1


def test_an_image_counts_once() -> None:
    records, evaluator = random_case(0)
    once = figures(records, evaluator)
    rows = evaluator.found[3]
    evaluator.add(3, rows[:, :4], rows[:, 4], rows[:, 5])
    assert figures(records, evaluator) == once


def test_nothing_found() -> None:
    records, evaluator = random_case(0)
    for image_id in list(evaluator.found):
        evaluator.add(image_id, np.zeros((0, 4)), np.zeros(0), np.zeros(0))
    assert figures(records, evaluator)["ap"] == 0
    evaluator.found = {}
    assert figures(records, evaluator)["ap"] == -1


def tenths(rng: np.random.Generator, low: int, high: int) -> float:
    """A number with one decimal, as files have them: the nearest float64."""
    return int(rng.integers(10 * low, 10 * high)) / 10


def test_boxes_of_files_are_measured_as_pycocotools_measures_them(tmp_path: Path) -> None:
    """Many detections overlap their objects by exactly a threshold, 0.5, 0.55 and so on."""
    rng = np.random.default_rng(0)
    images = 60
    objects: list[dict[str, Any]] = []
    rows: list[list[float]] = []
    for i in range(images):
        for label in rng.integers(0, 3, rng.integers(1, 12)).tolist():
            left, top, height, width = (
                *(tenths(rng, 0, 900) for _ in "xy"),
                tenths(rng, 9, 300),
                2 * int(rng.integers(5, 150)),
            )
            objects.append({"id": len(objects) + 1, "image_id": i, "category_id": label + 1, "iscrowd": 0})
            objects[-1] |= {"bbox": [left, top, width, height], "area": round(width * height, 2)}
            for _ in range(rng.integers(0, 4)):
                part = round(width * rng.integers(10, 21) / 20, 1)
                rows.append([i, left, top, part, height, rng.random(), label + 1])
    categories = [{"id": i, "name": name} for i, name in enumerate(LABELS, start=1)]
    truth = {"images": [{"id": i, "file_name": f"{i}.jpg", "width": 2000, "height": 2000} for i in range(images)]}
    truth |= {"annotations": objects, "categories": categories}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    _, records = read_coco(tmp_path / "truth.json", tmp_path)
    found = np.array(rows)

    evaluator = CocoEvaluator()
    for i in range(images):
        own = found[found[:, 0] == i]
        corners = np.concatenate([own[:, 1:3], own[:, 1:3] + own[:, 3:5]], axis=1)
        evaluator.add(i, corners, own[:, 5], own[:, 6] - 1)
    expected = pytest.approx(evaluated(truth, found).stats.tolist(), abs=1e-6)
    ours = figures(records, evaluator)
    assert [ours[name] for name in NAMES] == expected
    short = [replace(r, boxes=r.boxes.astype(np.float32)) for r in records]
    less = figures(short, evaluator)
    assert [less[name] for name in NAMES] != expected


def test_difficult_objects_count_neither_for_nor_against() -> None:
    """Found or not; but a second detection of one is a false positive, as for any object and unlike in a crowd."""
    boxes = np.array([[0.0, 0, 50, 50], [100, 100, 150, 150]])
    areas, none = np.array([2500.0, 2500]), np.zeros(2, bool)

    def ap(difficult: list[bool], *detected: tuple[int, float]) -> float:
        record = Record(Path(), 0, boxes, np.zeros(2, int), areas, none, np.array(difficult))
        evaluator = CocoEvaluator()
        scores = np.array([score for _, score in detected])
        evaluator.add(0, boxes[[i for i, _ in detected]], scores, np.zeros(len(detected)))
        return figures([record], evaluator)["ap"]

    assert ap([False, False], (0, 0.9)) == pytest.approx(0.5, abs=0.01)
    assert ap([False, True], (0, 0.9)) == ap([False, True], (1, 0.95), (0, 0.9)) == pytest.approx(1)
    assert ap([False, True], (1, 0.95), (1, 0.94), (0, 0.9)) == pytest.approx(0.5)
