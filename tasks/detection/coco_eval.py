"""COCO average precision of boxes."""

import contextlib
import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from faster_coco_eval import COCOeval_faster
from pycocotools import mask

from data.detection import Record

MOST = 100  # detections of a class in an image that COCO counts
FEWER = (1, 10)  # recall is also reported for so many
GROUP = 20  # images evaluated as one, because the library takes time for each image and class
SIZES = ("small", "medium", "large")
RECALLS = (*(f"ar{count}" for count in (*FEWER, MOST)), *(f"ar_{size}" for size in SIZES))


@dataclass
class BoxTable:
    """Objects or detections of all images: boxes (N, 4) as left, top, width and height, and their attributes (N,)."""

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    more: dict[str, np.ndarray]  # score of detections, iscrowd and ignore of objects

    def rows(self) -> list[dict]:
        """In the library's format."""
        table = {
            "id": range(1, len(self.boxes) + 1),
            "image_id": (self.images // GROUP).tolist(),
            "category_id": self.labels.tolist(),
            "bbox": self.boxes.tolist(),
            "area": self.areas.tolist(),
            **{name: values.tolist() for name, values in self.more.items()},
        }
        return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]

    def pairs(self) -> dict[tuple[int, int], np.ndarray]:
        """Row indices by (group of images, class)."""
        groups, labels = self.images // GROUP, self.labels
        order = np.lexsort((labels, groups))
        ends = np.flatnonzero((np.diff(groups[order]) != 0) | (np.diff(labels[order]) != 0)) + 1
        parts = np.split(order, ends) if len(order) else []
        return {(int(groups[part[0]]), int(labels[part[0]])): part for part in parts}

    def best(self, count: int, hits: np.ndarray) -> "BoxTable":
        """Of the `count` best detections of each image and class, those that `hits` (N,) selects."""
        order = np.lexsort((-self.more["score"], self.labels, self.images))
        new = np.diff(self.images[order], prepend=-1) != 0
        new |= np.diff(self.labels[order], prepend=-1) != 0
        first = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
        kept = np.sort(order[np.arange(len(order)) - first < count])
        kept = kept[hits[kept]]
        more = {name: values[kept] for name, values in self.more.items()}
        return BoxTable(self.images[kept], self.labels[kept], self.boxes[kept], self.areas[kept], more)


class _Evaluation(COCOeval_faster):
    """Takes tables, because the library's own loading takes longer than the evaluation."""

    def __init__(self, truth: BoxTable, found: BoxTable, groups: int, classes: int, all_sizes: bool = True) -> None:
        super().__init__(iouType="bbox", print_function=lambda *_: None, extra_calc=False)
        self.truth, self.found = truth, found
        self.truth_rows, self.found_rows = truth.pairs(), found.pairs()
        self.overlaps = np.zeros(len(found.boxes))  # the largest IoU of each detection with an object of its class
        self.params.imgIds, self.params.catIds = list(range(groups)), list(range(classes))
        self.params.maxDets = [MOST * GROUP]
        if not all_sizes:
            self.params.areaRng, self.params.areaRngLbl = self.params.areaRng[:1], self.params.areaRngLbl[:1]
        self.evaluate()
        self.accumulate()

    def _prepare(self) -> None:
        for dataset, table in ((self.gt_dataset, self.truth), (self.dt_dataset, self.found)):
            dataset.clean()
            for row in table.rows():
                dataset.append_ref(row["image_id"], row["category_id"], row)
        self._nonempty_iou_pairs = self.truth_rows.keys() & self.found_rows.keys()

    def computeIoU(self, imgId: int, catId: int) -> np.ndarray:
        """IoU of detections, best first, with objects; 0 between different images of the group. Computed by
        pycocotools, because a difference in the last bit can move an IoU across a threshold.
        """
        truth, found = self.truth_rows[imgId, catId], self.found_rows[imgId, catId]
        found = found[np.argsort(-self.found.more["score"][found], kind="stable")]
        crowd = self.truth.more["iscrowd"][truth]
        ious: np.ndarray = mask.iou(self.found.boxes[found], self.truth.boxes[truth], crowd.astype(np.uint8))
        ious[self.found.images[found][:, None] != self.truth.images[truth]] = 0
        self.overlaps[found] = ious.max(axis=1)
        return ious


class Figures(NamedTuple):
    """The values that COCO's metrics average; -1 where there is no object."""

    precision: np.ndarray  # (10, 101, C, 4) at IoU 0.5:0.95, at recall 0:1, of each class, and for objects of all
    # sizes, small, medium and large ones
    recall: np.ndarray  # (10, C, 6) at IoU 0.5:0.95, of each class, in the order of RECALLS


@dataclass
class CocoEvaluator:
    """Collects detections image by image; an image that comes twice (a padded sampler) counts once."""

    found: dict[int, np.ndarray] = field(default_factory=dict)  # by image: rows of xyxy, score, label

    def add(self, image_id: int, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
        """Detections of one image: boxes (K, 4) xyxy in its own pixels, scores (K,), labels (K,)."""
        rows = np.concatenate([boxes, scores[:, None], labels[:, None]], axis=1).astype(np.float64)
        if len(rows) > MOST:
            rows = rows[np.argsort(-rows[:, 4], kind="stable")]
            best = [np.flatnonzero(rows[:, 5] == label)[:MOST] for label in np.unique(rows[:, 5])]
            rows = rows[np.sort(np.concatenate(best))]
        self.found[image_id] = rows

    def evaluate(self, records: Sequence[Record], labels: Sequence[str]) -> Figures:
        """The figures of the images that were added."""
        seen = [record for record in records if record.image_id in self.found]
        if not seen:
            return Figures(np.full((10, 101, len(labels), 4), -1.0), np.full((10, len(labels), len(RECALLS)), -1.0))
        image = np.arange(len(seen))
        boxes, classes, areas, crowd, difficult = (
            np.concatenate([getattr(r, name) for r in seen])
            for name in ("boxes", "labels", "areas", "crowd", "difficult")
        )
        flags = {"iscrowd": crowd.astype(int), "ignore": (crowd | difficult).astype(int)}
        truth = BoxTable(image.repeat([len(r.labels) for r in seen]), classes, xywh(boxes), areas, flags)
        rows = np.concatenate([self.found[r.image_id] for r in seen])
        places = xywh(rows[:, :4])
        scores = {"score": rows[:, 4]}
        image = image.repeat([len(self.found[r.image_id]) for r in seen])
        found = BoxTable(image, rows[:, 5].astype(int), places, places[:, 2:].prod(axis=1), scores)
        shape = -(-len(seen) // GROUP), len(labels)
        with _no_collection():
            whole = _Evaluation(truth, found, *shape)
            hits = whole.overlaps >= 0.5  # what matches no object at the lowest IoU cannot change a recall
            fewer = [_Evaluation(truth, found.best(count, hits), *shape, all_sizes=False) for count in FEWER]
        recall = [few.eval["recall"][..., 0, 0] for few in fewer] + [*np.moveaxis(whole.eval["recall"][..., 0], -1, 0)]
        return Figures(whole.eval["precision"][..., 0], np.stack(recall, axis=-1))


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Disables the garbage collector, which makes creating half a million dictionaries a third slower."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def xywh(boxes: np.ndarray) -> np.ndarray:
    """Left, top, width and height of boxes (N, 4) xyxy. Sides are rounded to twelve decimals, more than files have, to
    undo the rounding error of right = left + width.
    """
    return np.concatenate([boxes[:, :2], (boxes[:, 2:] - boxes[:, :2]).round(12)], axis=1)


def average(precision: np.ndarray) -> float:
    """Mean of the valid entries; -1 where there are none."""
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else -1.0


def summary(figures: Figures, labels: Sequence[str]) -> dict[str, float]:
    """COCO's twelve metrics: AP over IoU 0.5:0.95, AP50, AP75, AP by size, average recall with 1, 10 and 100 detections
    per image, and with 100 by size; and `ap/<label>`, `ap50/<label>`. 0..1, -1 without objects.
    """
    precision, recall = figures
    metrics = {
        "ap": average(precision[..., 0]),
        "ap50": average(precision[0, ..., 0]),
        "ap75": average(precision[5, ..., 0]),
    }
    metrics |= {f"ap_{size}": average(precision[..., i]) for i, size in enumerate(SIZES, start=1)}
    metrics |= {name: average(recall[..., i]) for i, name in enumerate(RECALLS)}
    for i, label in enumerate(labels):
        metrics |= {f"ap/{label}": average(precision[:, :, i, 0]), f"ap50/{label}": average(precision[0, :, i, 0])}
    return metrics
