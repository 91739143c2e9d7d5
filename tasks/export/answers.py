"""From what an exported file returned to plain answers, in numpy alone: each function is copied into an export's
example.py as it stands, and takes one image's outputs by name and the content of model.json.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Outputs = dict[str, npt.NDArray[Any]]


def classes(outputs: Outputs, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The five most probable classes."""
    scores = outputs["probabilities"]
    best = np.argsort(-scores)[:5]
    return [{"label": spec["labels"][i], "score": round(float(scores[i]), 4)} for i in best]


def attributes(outputs: Outputs, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The attributes, most probable first."""
    scores = outputs["probabilities"]
    return [{"label": spec["labels"][i], "score": round(float(scores[i]), 4)} for i in np.argsort(-scores)]


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


def position(outputs: Outputs, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Latitude and longitude in degrees, and the most probable cells."""
    x, y, z = outputs["directions"].astype(float)
    cells = [
        {"token": spec["cells"]["tokens"][i], "probability": round(float(p), 4)}
        for i, p in zip(outputs["cells"], outputs["probabilities"], strict=True)
    ]
    latitude, longitude = np.degrees([np.arctan2(z, np.hypot(x, y)), np.arctan2(y, x)]).tolist()
    return [{"latitude": round(latitude, 5), "longitude": round(longitude, 5), "cells": cells}]


def values(outputs: Outputs, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Every output as it is."""
    return [{name: np.round(value.astype(float), 5).tolist()} for name, value in outputs.items()]
