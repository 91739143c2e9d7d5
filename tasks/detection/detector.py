"""The base class of detectors: candidate selection and non-maximum suppression."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from backbones.base import Backbone
from tasks.detection.boxes import kept_by_nms
from tasks.detection.nms import nms_mask
from tasks.detection.results import numpy_nms
from tasks.engine.model import ExportSpec, Model


class Detections(NamedTuple):
    """The best detections of each image, highest score first; unused rows have score 0."""

    boxes: Tensor  # (B, K, 4) xyxy pixels of the input
    scores: Tensor  # (B, K)
    labels: Tensor  # (B, K) int64, 0 for the first class


class Detector(Model):
    """A detector names the backbone's `strides` that it uses, and defines `forward`, `loss` and either `class_logits`,
    `decode_boxes_at` and `decode_all_boxes`, or a `postprocess` and an `export_forward` of its own.
    """

    score_threshold: float = 0.01
    export_spec = ExportSpec(
        {
            "boxes": "xyxy in pixels of the input",
            "scores": "0..1; where there is an output `labels` they fall, and past an image's last detection are 0",
            "labels": "index into the class names",
        },
        result=Detections,
    )

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        resolution: int,
        *,
        nms_iou: float = 0.6,
        candidates: int = 200,
        max_detections: int = 100,
    ) -> None:
        super().__init__(backbone)
        self.num_classes = num_classes
        self.resolution = resolution
        self.nms_iou, self.candidates, self.max_detections = nms_iou, candidates, max_detections

    def loss(self, outputs: Any, boxes_BN4: Tensor, labels_BN: Tensor) -> dict[str, Tensor]:
        """Named losses; boxes in input pixels, labels -1 where padded."""
        raise NotImplementedError("a detector defines loss")

    def class_logits(self, outputs: Any) -> Tensor:
        """Logits (B, A, num_classes) of the objects' classes, from the outputs of `forward`."""
        raise NotImplementedError("a detector defines class_logits")

    def decode_boxes_at(self, outputs: Any, index_BK: Tensor) -> Tensor:
        """Boxes (B, K, 4), xyxy input pixels, of the chosen anchors or points."""
        raise NotImplementedError("a detector defines decode_boxes_at")

    def decode_all_boxes(self, outputs: Any) -> Tensor:
        """Boxes (B, A, 4) of all anchors or points."""
        raise NotImplementedError("a detector defines decode_all_boxes")

    def export_forward(self, images: Tensor, with_nms: bool) -> dict[str, Tensor]:
        """The outputs of an exported file for normalised images: the detections if `with_nms`, else every decoded box
        (B, A, 4) with its scores (B, A, num_classes).
        """
        outputs = self(images)
        logits_BAC = self.class_logits(outputs)
        if not with_nms:
            scores = logits_BAC.float().sigmoid()
            return {"boxes": self.decode_all_boxes(outputs).clamp(0, self.resolution), "scores": scores}
        scores_BK, index_BK, labels_BK = self.best_pairs(logits_BAC)
        boxes_BK4 = self.decode_boxes_at(outputs, index_BK).clamp(0, self.resolution)
        return self.apply_nms(boxes_BK4, scores_BK, labels_BK)

    def best_pairs(self, logits_BAC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of the best `candidates` (box, class) pairs of each image, highest first, and the indices of their
        boxes and classes, each (B, K).
        """
        _, anchors, classes = logits_BAC.shape
        count = min(self.candidates, anchors * classes)
        # all pairs are of the `count` boxes whose best class scores highest, so the others need not be sorted
        boxes_BN = logits_BAC.amax(dim=2).topk(min(count, anchors)).indices
        logits_BNC = logits_BAC.gather(1, boxes_BN[..., None].expand(-1, -1, classes)).float()
        logits_BK, flat_BK = logits_BNC.flatten(1).topk(count)
        return logits_BK.sigmoid(), boxes_BN.gather(1, flat_BK // classes), flat_BK % classes

    def apply_nms(self, boxes_BK4: Tensor, scores_BK: Tensor, labels_BK: Tensor) -> dict[str, Tensor]:
        """The fields of Detections after class-wise NMS of the candidates, with fixed shapes."""
        own_BCK = labels_BK[:, None] == torch.arange(self.num_classes, device=labels_BK.device)[:, None]
        apart_BCK = torch.where(own_BCK, scores_BK[:, None], 0.0)
        scores_BK = scores_BK * nms_mask(boxes_BK4, apart_BCK, self.nms_iou, self.score_threshold)
        scores, order = scores_BK.topk(min(self.max_detections, scores_BK.shape[1]))
        boxes, labels = boxes_BK4.gather(1, order[..., None].expand(-1, -1, 4)), labels_BK.gather(1, order)
        some = scores > 0
        return {"boxes": boxes * some[..., None], "scores": scores, "labels": labels * some}

    def from_export(self, outputs: dict[str, Tensor]) -> Detections:
        """The detections from the outputs of `export_forward`."""
        if "labels" in outputs:
            return Detections(outputs["boxes"], outputs["scores"], outputs["labels"])
        result = self.empty(len(outputs["boxes"]), outputs["boxes"])
        for i in range(len(result.boxes)):
            rows = numpy_nms({name: value[i].cpu().numpy() for name, value in outputs.items()}, self.nms_settings())
            for table, values in zip(result, rows, strict=True):
                table[i, : len(values)] = torch.from_numpy(values)
        return result

    def anchor_boxes(self) -> Tensor | None:
        """The anchors (A, 4), xyxy input pixels; None if the detector has none."""
        return None

    def nms_settings(self) -> dict[str, Any]:
        """The settings of `numpy_nms`."""
        names = ("score_threshold", "candidates", "nms_iou", "max_detections")
        return {name: getattr(self, name) for name in names}

    def empty(self, batch: int, like: Tensor) -> Detections:
        """Empty detections for a batch of images."""
        return Detections(
            like.new_zeros(batch, self.max_detections, 4, dtype=torch.float32),
            like.new_zeros(batch, self.max_detections, dtype=torch.float32),
            like.new_zeros(batch, self.max_detections, dtype=torch.int64),
        )

    def postprocess(self, outputs: Any) -> Detections:
        """Class-wise NMS over the best `candidates` (box, class) pairs of each image."""
        scores_BK, index_BK, labels_BK = self.best_pairs(self.class_logits(outputs))
        boxes_BK4 = self.decode_boxes_at(outputs, index_BK).clamp(0, self.resolution)
        kept_BK = kept_by_nms(boxes_BK4, labels_BK, scores_BK > self.score_threshold, self.nms_iou)
        place_BK = kept_BK.cumsum(dim=1) - 1
        row, rank = torch.nonzero(kept_BK & (place_BK < self.max_detections), as_tuple=True)
        result = self.empty(len(boxes_BK4), boxes_BK4)
        for table, values in zip(result, (boxes_BK4, scores_BK, labels_BK), strict=True):
            table[row, place_BK[row, rank]] = values[row, rank].to(table.dtype)
        return result
