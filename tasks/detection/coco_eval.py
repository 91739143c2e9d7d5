"""COCO average precision of boxes."""

import contextlib
import gc
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from faster_coco_eval import COCOeval_faster

from data.detection import Record

MOST = 100  # detections of a class in an image that COCO counts
GROUP = 20  # images evaluated as one
APART = 2.0**16  # pixels between them; adding a power of two to float32 corners is exact in float64
SIZES = ("small", "medium", "large")


class _Evaluation(COCOeval_faster):
    """Takes plain rows. The library's own loading costs more than the evaluation."""

    def __init__(self, truth: list[dict], found: list[dict], groups: int, classes: int) -> None:
        super().__init__(iouType="bbox", print_function=lambda *_: None, extra_calc=False)
        self.rows = truth, found
        self.params.imgIds, self.params.catIds = list(range(groups)), list(range(classes))
        self.params.maxDets = [1, 10, MOST * GROUP]

    def _prepare(self) -> None:
        pairs = []
        for dataset, rows in zip((self.gt_dataset, self.dt_dataset), self.rows, strict=True):
            dataset.clean()
            for row in rows:
                dataset.append_ref(row["image_id"], row["category_id"], row)
            pairs.append({(row["image_id"], row["category_id"]) for row in rows})
        self._nonempty_iou_pairs = pairs[0] & pairs[1]


@dataclass
class CocoEvaluator:
    """Collects detections image by image; an image that comes twice (a padded sampler) counts once."""

    backend: Literal["faster", "pycocotools"] = "faster"
    found: dict[int, np.ndarray] = field(default_factory=dict)  # by image: rows of xyxy, score, label

    def add(self, image_id: int, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
        """Detections of one image: boxes (K, 4) xyxy in its own pixels, scores (K,), labels (K,)."""
        rows = np.concatenate([boxes, scores[:, None], labels[:, None]], axis=1).astype(np.float64)
        if len(rows) > MOST:
            rows = rows[np.argsort(-rows[:, 4], kind="stable")]
            best = [np.flatnonzero(rows[:, 5] == label)[:MOST] for label in np.unique(rows[:, 5])]
            rows = rows[np.sort(np.concatenate(best))]
        self.found[image_id] = rows

    def precision(self, records: Sequence[Record], labels: Sequence[str]) -> np.ndarray:
        """Precision (10, 101, C, 4) at IoU 0.5:0.95, at recall 0:1, of each class, and for objects of all sizes, small,
        medium and large ones; -1 where there is no object. Only images that were added are counted.
        """
        seen = [record for record in records if record.image_id in self.found]
        if not seen:
            return np.full((10, 101, len(labels), 4), -1.0)
        evaluate = {"faster": self._faster, "pycocotools": self._pycocotools}[self.backend]
        return evaluate(seen, labels)[..., -1]

    def _faster(self, seen: Sequence[Record], labels: Sequence[str]) -> np.ndarray:
        # Moved apart, the images of a group are evaluated as one: the library's time is per image and class.
        counts = [len(r.labels) for r in seen]
        boxes, classes, areas, crowd = (
            np.concatenate([getattr(r, name) for r in seen]) for name in ("boxes", "labels", "areas", "crowd")
        )
        found = np.concatenate([self.found[r.image_id] for r in seen])
        found_counts = [len(self.found[r.image_id]) for r in seen]
        found_areas = (found[:, 2:4] - found[:, :2]).prod(axis=1)
        with _no_collection():
            evaluation = _Evaluation(
                _rows(boxes, counts, classes, areas, iscrowd=crowd.astype(int), ignore=crowd.astype(int)),
                _rows(found[:, :4], found_counts, found[:, 5], found_areas, score=found[:, 4]),
                -(-len(seen) // GROUP),
                len(labels),
            )
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation.eval["precision"]

    def _pycocotools(self, seen: Sequence[Record], labels: Sequence[str]) -> np.ndarray:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO()
            truth.dataset = ground_truth(seen, labels)
            truth.createIndex()
            rows = np.concatenate([np.insert(self.found[r.image_id], 0, r.image_id, axis=1) for r in seen])
            rows[:, 3:5] -= rows[:, 1:3]
            rows[:, 6] += 1
            evaluation = COCOeval(truth, truth.loadRes(rows), "bbox") if len(rows) else COCOeval(truth, COCO(), "bbox")
            evaluation.params.imgIds = sorted(r.image_id for r in seen)
            evaluation.params.catIds = list(range(1, len(labels) + 1))
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation.eval["precision"]


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Half a million dictionaries are a third slower to make while the garbage collector keeps looking at them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _rows(
    boxes: np.ndarray, counts: Sequence[int], classes: np.ndarray, areas: np.ndarray, **more: np.ndarray
) -> list[dict]:
    """The library's rows of objects or detections, whose boxes (N, 4) are xyxy; `counts` are those of each image."""
    image = np.repeat(np.arange(len(counts)), counts)
    boxes = boxes.astype(np.float64)
    sizes = boxes[:, 2:] - boxes[:, :2]
    corner = boxes[:, :2] + np.stack([image % GROUP * APART, np.zeros(len(boxes))], axis=1)
    table = {
        "id": range(1, len(boxes) + 1),
        "image_id": (image // GROUP).tolist(),
        "category_id": classes.astype(int).tolist(),
        "bbox": np.concatenate([corner, sizes], axis=1).tolist(),
        "area": areas.astype(np.float64).tolist(),
    }
    table |= {name: values.tolist() for name, values in more.items()}
    names = tuple(table)
    return [dict(zip(names, row, strict=True)) for row in zip(*table.values(), strict=True)]


def ground_truth(records: Sequence[Record], labels: Sequence[str]) -> dict[str, Any]:
    """The records as a COCO data set, with category ids from 1."""
    annotations = [
        {
            "id": 0,
            "image_id": r.image_id,
            "category_id": int(label) + 1,
            "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
            "area": float(area),
            "iscrowd": int(crowd),
        }
        for r in records
        for (x0, y0, x1, y1), label, area, crowd in zip(r.boxes, r.labels, r.areas, r.crowd, strict=True)
    ]
    for i, annotation in enumerate(annotations, start=1):
        annotation["id"] = i
    return {
        "images": [{"id": record.image_id} for record in records],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(labels, start=1)],
    }


def average(precision: np.ndarray) -> float:
    """Mean of the valid entries; -1 where there are none."""
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else -1.0


def summary(precision: np.ndarray, labels: Sequence[str]) -> dict[str, float]:
    """AP over IoU 0.5:0.95, AP50, AP75, AP by size, and `ap/<label>`, `ap50/<label>`; 0..1, -1 without objects."""
    metrics = {
        "ap": average(precision[..., 0]),
        "ap50": average(precision[0, ..., 0]),
        "ap75": average(precision[5, ..., 0]),
    }
    metrics |= {f"ap_{size}": average(precision[..., i]) for i, size in enumerate(SIZES, start=1)}
    for i, label in enumerate(labels):
        metrics |= {f"ap/{label}": average(precision[:, :, i, 0]), f"ap50/{label}": average(precision[0, :, i, 0])}
    return metrics
