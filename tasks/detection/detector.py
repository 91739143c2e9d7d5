"""What all single-shot detectors share: input normalization and non-maximum suppression."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from backbones.base import Backbone


class Detections(NamedTuple):
    """The best detections of each image, highest score first; rows past an image's last have score 0."""

    boxes: Tensor  # (B, K, 4) xyxy pixels of the input
    scores: Tensor  # (B, K)
    labels: Tensor  # (B, K) int64, 0 for the first class


class Detector(nn.Module):
    """A network that can be deployed alone: preprocess, forward, postprocess; and its loss to train it.

    A detector names the backbone's `strides` that it stands on, and defines `forward`, `loss` and either
    `class_logits` and `boxes_at` or a `postprocess` of its own.
    """

    strides: tuple[int, ...]
    mean: Tensor
    std: Tensor

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
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.resolution = resolution
        self.nms_iou, self.candidates, self.max_detections = nms_iou, candidates, max_detections
        mean, std = (torch.tensor(v).view(3, 1, 1) * 255 for v in backbone.normalization)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def preprocess(self, images: Tensor) -> Tensor:
        """uint8 RGB (B, 3, H, W) to what the backbone expects."""
        return (images.float() - self.mean) / self.std

    def loss(self, outputs: Any, boxes_BN4: Tensor, labels_BN: Tensor) -> dict[str, Tensor]:
        """Named losses; boxes in input pixels, labels -1 where padded."""
        raise NotImplementedError("a detector defines loss")

    def class_logits(self, outputs: Any) -> Tensor:
        """Logits (B, A, num_classes) of the objects' classes, from what forward gave."""
        raise NotImplementedError("a detector defines class_logits")

    def boxes_at(self, outputs: Any, index_BK: Tensor) -> Tensor:
        """Boxes (B, K, 4), xyxy input pixels, of the chosen anchors or points."""
        raise NotImplementedError("a detector defines boxes_at")

    def postprocess(self, outputs: Any, score_threshold: float = 0.01) -> Detections:
        """Class-wise NMS over the best `candidates` (box, class) pairs of each image."""
        logits = self.class_logits(outputs).float()
        batch, columns = len(logits), self.num_classes
        top = min(self.candidates, logits.shape[1] * columns)
        scores_BK, flat_BK = logits.flatten(1).topk(top)
        scores_BK = scores_BK.sigmoid()
        label_BK = flat_BK % columns
        boxes_BK4 = self.boxes_at(outputs, flat_BK // columns).clamp(0, self.resolution)

        # Moved apart by image and class, the boxes of the whole batch go through one NMS.
        row, rank = torch.nonzero(scores_BK > score_threshold, as_tuple=True)
        boxes, scores, labels = boxes_BK4[row, rank], scores_BK[row, rank], label_BK[row, rank]
        # (double: a large offset would round float32 boxes, and results would depend on the batch)
        offset = (row * columns + labels).double() * (self.resolution + 1)
        keep = nms(boxes + offset[:, None], scores.double(), self.nms_iou)
        row, boxes, scores, labels = row[keep], boxes[keep], scores[keep], labels[keep]

        # nms returns by falling score; a stable sort by image keeps that order inside each image.
        row, order = row.sort(stable=True)
        first = torch.searchsorted(row, torch.arange(batch, device=row.device))
        place = torch.arange(len(row), device=row.device) - first[row]
        order, row, place = (t[place < self.max_detections] for t in (order, row, place))
        result = Detections(
            boxes.new_zeros(batch, self.max_detections, 4),
            scores.new_zeros(batch, self.max_detections),
            labels.new_zeros(batch, self.max_detections),
        )
        for table, values in zip(result, (boxes, scores, labels), strict=True):
            table[row, place] = values[order]
        return result
