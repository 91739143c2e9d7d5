"""The detection task: a detector, its COCO metrics and its images."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.base import Split
from data.detection import DetectionBatch, DetectionSet
from tasks.detection.detector import Detector
from tasks.engine.metrics import check_finite
from tasks.engine.options import locate
from tasks.engine.task import TaskModule


def is_tf_zoo(path: str) -> bool:
    """Whether `ckpt` names weights of TensorFlow's detection zoo."""
    return path == "coco" or path.endswith((".tar.gz", ".pb"))


class DetectionTask(TaskModule):
    """Trains a detector; `primary` is COCO's AP over IoU 0.5:0.95."""

    primary = "ap"
    published_classes = 90  # COCO's category ids, as the paper counts them
    model: Detector

    precision: np.ndarray | None = None  # of the last evaluation, as in `coco_eval.Figures`

    def build_metrics(self) -> None:
        from tasks.detection.coco_eval import CocoEvaluator

        self.evaluator = CocoEvaluator()
        self.finite = torch.tensor(True)  # whether all outputs were; on their device, where nothing waits for it

    def build_model(self) -> Detector:
        detector = locate(self.config, "detector")
        model: Detector = detector(
            **self.config["detector"],
            backbone=self.build_backbone(detector.strides),
            num_classes=len(self.labels),
            resolution=self.resolution,
        )
        model.score_threshold = self.config["task"]["score_threshold"]
        return model

    def result_settings(self) -> dict[str, Any]:
        return {"postprocess": self.model.nms_settings() | super().result_settings()["postprocess"]}

    def export_metadata(self) -> dict[str, Any]:
        anchors = self.model.anchor_boxes()
        return {} if anchors is None else {"anchors": anchors.round(decimals=2).tolist()}

    def checkpoint_settings(self) -> dict[str, Any]:
        return {} if is_tf_zoo(self.config["ckpt"]) else super().checkpoint_settings()

    def load_initial_weights(self, path: str) -> dict[str, Tensor]:
        from tasks.detection.tf_zoo import fetch_coco, read_tf_zoo

        if path == "coco":
            path = str(fetch_coco(self.config["backbone"].get("alpha", 1.0)))
        if is_tf_zoo(path):
            return read_tf_zoo(Path(path), self.labels, self.state_dict())
        return super().load_initial_weights(path)

    def compute_losses(self, batch: DetectionBatch) -> dict[str, Tensor]:
        return self.model.loss(self.model(self.model.preprocess(batch.images)), batch.boxes, batch.labels)

    def update_metrics(self, batch: DetectionBatch) -> None:
        outputs = self.model(self.model.preprocess(batch.images))
        for output in [outputs] if isinstance(outputs, Tensor) else outputs:
            self.finite = self.finite.to(output.device) & output.isfinite().all()
        found = self.model.postprocess(outputs)
        scale = batch.sizes.flip(1).repeat(1, 2) / self.resolution  # to pixels of the files
        tables = [table.float().cpu().numpy() for table in found._replace(boxes=found.boxes * scale[:, None])]
        for image_id, boxes, scores, labels in zip(batch.image_ids, *tables, strict=True):
            kept = scores > 0
            self.evaluator.add(image_id, boxes[kept], scores[kept], labels[kept])

    def compute_metrics(self, split: Split) -> dict[str, float]:
        from tasks.detection.coco_eval import summary

        evaluator, finite = self.evaluator, bool(self.finite)
        if self.trainer.world_size > 1:
            parts: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(parts, (evaluator.found, finite))
            evaluator.found = {i: rows for part, _ in parts for i, rows in part.items()}
            finite = all(own for _, own in parts)
        check_finite(finite)
        dataset = self.data.datasets[split]
        assert isinstance(dataset, DetectionSet)
        figures = evaluator.evaluate(dataset.records, self.labels)
        self.precision = figures.precision
        return summary(figures, self.labels)

    def reset_metrics(self) -> None:
        self.build_metrics()

    def figures(self) -> dict[str, Tensor]:
        from tasks.detection.figures import precision_recall
        from tasks.engine.plots import render_figure

        assert self.precision is not None
        return {"precision_recall": render_figure(precision_recall(self.precision, self.labels))}

    def ground_truth(self, batch: DetectionBatch) -> list[dict[str, Any]]:
        scale = batch.sizes.flip(1).repeat(1, 2) / batch.images.shape[-1]
        return [
            {
                "detections": [
                    {"label": self.labels[label], "box": box}
                    for box, label in zip(boxes.tolist(), labels.tolist(), strict=True)
                    if label >= 0
                ]
            }
            for boxes, labels in zip(batch.boxes * scale[:, None], batch.labels, strict=True)
        ]
