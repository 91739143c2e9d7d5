"""COCO average precision of boxes."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from data.detection import Record

SUMMARY = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")  # the order of COCO's stats


@dataclass
class CocoEvaluator:
    """Collects detections picture by picture; a picture that comes twice (a padded sampler) counts once."""

    found: dict[int, np.ndarray] = field(default_factory=dict)

    def add(self, image_id: int, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
        """Detections of one picture: boxes (K, 4) xyxy in its own pixels, scores (K,), labels (K,)."""
        self.found[image_id] = np.concatenate(
            [boxes[:, :2], boxes[:, 2:] - boxes[:, :2], scores[:, None], labels[:, None] + 1], axis=1
        ).astype(np.float64)

    def compute(self, records: Sequence[Record], labels: Sequence[str]) -> dict[str, float]:
        """AP over IoU 0.5:0.95, AP50, AP75, AP by size, and `ap50/<label>`; 0..1, -1 where there is no object.

        Only pictures that were added are counted.
        """
        from faster_coco_eval import COCO, COCOeval_faster

        seen = [record for record in records if record.image_id in self.found]
        truth = COCO(ground_truth(seen, labels))
        rows = [np.insert(self.found[r.image_id], 0, r.image_id, axis=1) for r in seen]
        table = np.concatenate(rows) if rows else np.zeros((0, 7))
        results = truth.loadRes(table if len(table) else [])
        evaluation = COCOeval_faster(truth, results, "bbox", print_function=lambda *_: None)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        metrics = {name: float(value) for name, value in zip(SUMMARY, evaluation.stats, strict=False)}
        # precision: (IoU threshold, recall, class, area range, maximum detections)
        at_50 = evaluation.eval["precision"][0, :, :, 0, -1]
        for i, label in enumerate(labels):
            valid = at_50[:, i][at_50[:, i] > -1]
            metrics[f"ap50/{label}"] = float(valid.mean()) if valid.size else -1.0
        return metrics


def ground_truth(records: Sequence[Record], labels: Sequence[str]) -> dict:
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
