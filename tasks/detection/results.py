"""Detections from a network's outputs."""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from tasks.engine.results import Outputs, Scored

COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#f032e6", "#9a6324", "#808000")
LONGEST = 80  # characters of a drawn name and score


def numpy_nms(outputs: Outputs, settings: dict[str, Any]) -> tuple[npt.NDArray[Any], ...]:
    """Class-wise non-maximum suppression of all anchors' boxes (A, 4) and scores (A, classes): the remaining boxes
    (N, 4), scores (N,) and labels (N,), best first.
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


def detections(outputs: Outputs, spec: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Boxes (left, top, right, bottom) in pixels of the image, whose height and width are `size`, best first."""
    if "labels" in outputs:
        boxes, scores, labels = (outputs[name] for name in ("boxes", "scores", "labels"))
    else:
        boxes, scores, labels = numpy_nms(outputs, spec["postprocess"])
    boxes = boxes * np.array([size[1], size[0]] * 2) / spec["input"]["size"]
    rows = [
        {"label": spec["labels"][int(label)], "score": round(float(score), 4), "box": [round(float(v), 1) for v in box]}
        for box, score, label in zip(boxes, scores, labels, strict=True)
        if score > spec["postprocess"]["draw_threshold"]
    ]
    return {"detections": rows}


class DetectionResult(Scored):
    """Detected objects: `boxes`, `labels`, `class_ids` and `scores`, best first."""

    to_plain = staticmethod(detections)
    helpers = (numpy_nms,)
    key = "detections"
    hub_task = "object-detection"

    @property
    def boxes(self) -> npt.NDArray[np.float32]:
        """Boxes (N, 4): left, top, right, bottom in pixels of the upright image."""
        return np.array([d["box"] for d in self.plain["detections"]], np.float32).reshape(-1, 4)

    @property
    def class_ids(self) -> npt.NDArray[np.int64]:
        """Indices (N,) of the labels in `class_names`."""
        return np.array([self.class_names.index(label) for label in self.labels], np.int64)

    def annotate(self, image: Image.Image) -> Image.Image:
        canvas, width = image.copy(), max(2, image.width // 200)
        draw, font = ImageDraw.Draw(canvas), ImageFont.load_default()
        # clipped, as a model's file may make them astronomical: drawing outside of the image takes time too
        corners = np.nan_to_num(self.boxes.clip(0, [image.width - 1, image.height - 1] * 2)).astype(int)
        rows = zip(corners.tolist(), self.class_ids.tolist(), self.lines(), strict=True)
        for (left, top, right, bottom), index, text in rows:
            colour = COLOURS[index % len(COLOURS)]
            draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=width)
            corner = left + width + 1, top + width + 1
            text = text[:LONGEST]
            x0, y0, x1, y1 = draw.textbbox(corner, text, font)
            draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), fill=colour)
            draw.text(corner, text, fill="white", font=font)
        return canvas
