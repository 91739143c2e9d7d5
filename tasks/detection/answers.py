"""Detections from an exported file's outputs."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.engine.answers import Outputs


def numpy_nms(outputs: Outputs, settings: dict[str, Any]) -> tuple[npt.NDArray[Any], ...]:
    """Boxes (N, 4), scores (N,) and labels (N,), best first, that class-wise non-maximum suppression leaves of every
    anchor's box (A, 4) and scores (A, classes).
    """
    boxes, scores = outputs["boxes"], outputs["scores"]
    flat = np.argsort(-scores, axis=None, kind="stable")[: settings["candidates"]]
    anchors, labels = np.divmod(flat, scores.shape[1])
    boxes, scores = boxes[anchors], scores[anchors, labels]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    for i in np.flatnonzero(scores > settings["score_threshold"]):
        others = [k for k in kept if labels[k] == labels[i]]
        low, high = np.maximum(boxes[others, :2], boxes[i, :2]), np.minimum(boxes[others, 2:], boxes[i, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=1)
        if not np.any(shared > settings["nms_iou"] * (area[others] + area[i] - shared)):
            kept.append(int(i))
    best = kept[: settings["max_detections"]]
    return boxes[best], scores[best], labels[best]


def detections(outputs: Outputs, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Boxes (left, top, right, bottom) as shares of the image's width and height, best first."""
    if "labels" in outputs:
        boxes, scores, labels = (outputs[name] for name in ("boxes", "scores", "labels"))
    else:
        boxes, scores, labels = numpy_nms(outputs, spec["postprocess"])
    return [
        {
            "label": spec["labels"][int(label)],
            "score": round(float(score), 4),
            "box": [round(float(v) / spec["input"]["size"], 4) for v in box],
        }
        for box, score, label in zip(boxes, scores, labels, strict=True)
        if score > spec["postprocess"]["draw_threshold"]
    ]
