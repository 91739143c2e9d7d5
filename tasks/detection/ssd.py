"""SSD (Liu et al. 2016) in the form of TF Object Detection API's ssd_mobilenet_v1."""

from math import log
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import nms

from backbones.base import Backbone
from backbones.mobilenet_v1 import ConvNormAct, scaled_depth
from tasks.detection.anchors import assign, decode, encode, ssd_anchors
from tasks.detection.losses import hard_negative_cross_entropy, sigmoid_focal

EXTRA_DEPTHS = (512, 256, 256, 128)


class Detections(NamedTuple):
    """The best detections of each image, highest score first; rows past an image's last have score 0."""

    boxes: Tensor  # (B, K, 4) xyxy pixels of the input
    scores: Tensor  # (B, K)
    labels: Tensor  # (B, K) int64, 0 for the first class


class SSD(nn.Module):
    """Single-shot detector on two maps of a backbone and four of its own.

    Outputs are num_classes + 1 columns a box: as in TF, column 0 is background. `loss` is "focal" (Lin et al.
    2017; background is the absence of all classes) or "hard_negative" (SSD, section 2.2; three negatives a
    positive, background is a class).
    """

    strides = (16, 32)
    mean: Tensor
    std: Tensor
    anchors: Tensor

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        resolution: int = 300,
        *,
        alpha: float = 1.0,
        loss: Literal["focal", "hard_negative"] = "focal",
        focal_alpha: float = 0.75,
        focal_gamma: float = 2.0,
        negative_ratio: float = 3.0,
        match_iou: float = 0.5,
        nms_iou: float = 0.6,
        candidates: int = 200,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.resolution = resolution
        self.loss_name = loss
        self.focal_alpha, self.focal_gamma, self.negative_ratio = focal_alpha, focal_gamma, negative_ratio
        self.match_iou, self.nms_iou = match_iou, nms_iou
        self.candidates, self.max_detections = candidates, max_detections

        self.extras = nn.ModuleList()
        channels = list(backbone.channels)
        for depth in EXTRA_DEPTHS:
            half, full = (scaled_depth(d, alpha, minimum=16) for d in (depth // 2, depth))
            self.extras.append(nn.Sequential(ConvNormAct(channels[-1], half), ConvNormAct(half, full, 3, 2)))
            channels.append(full)
        self.anchors_per_cell = (3, *(6,) * (len(channels) - 1))
        heads = list(zip(channels, self.anchors_per_cell, strict=True))
        self.box_heads = nn.ModuleList(nn.Conv2d(c, 4 * a, 1) for c, a in heads)
        self.class_heads = nn.ModuleList(nn.Conv2d(c, (num_classes + 1) * a, 1) for c, a in heads)
        self._initialise()

        mean, std = (torch.tensor(v).view(3, 1, 1) * 255 for v in backbone.normalization)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        sizes = [-(-resolution // stride) for stride in self.strides]
        for _ in EXTRA_DEPTHS:
            sizes.append(-(-sizes[-1] // 2))
        self.register_buffer("anchors", ssd_anchors(sizes, resolution), persistent=False)

    def _initialise(self) -> None:
        prior = log(0.01 / 0.99)  # RetinaNet, section 4.1: rare objects do not swamp the first steps
        for head in (*self.box_heads, *self.class_heads):
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)
        if self.loss_name == "focal":
            for head in self.class_heads:
                nn.init.constant_(head.bias, prior)  # type: ignore[arg-type]

    def preprocess(self, images: Tensor) -> Tensor:
        """uint8 RGB (B, 3, H, W) to what the backbone expects."""
        return (images.float() - self.mean) / self.std

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (B, 3, R, R) to box deltas (B, A, 4) and class logits (B, A, num_classes + 1)."""
        maps = self.backbone(images)
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        deltas = [_per_anchor(head(x), 4) for head, x in zip(self.box_heads, maps, strict=True)]
        columns = self.num_classes + 1
        logits = [_per_anchor(head(x), columns) for head, x in zip(self.class_heads, maps, strict=True)]
        return torch.cat(deltas, dim=1), torch.cat(logits, dim=1)

    def loss(self, outputs: tuple[Tensor, Tensor], boxes_BN4: Tensor, labels_BN: Tensor) -> dict[str, Tensor]:
        """Classification and box losses per positive anchor; boxes in input pixels, labels -1 where padded."""
        deltas, logits = (output.float() for output in outputs)
        index_BA = assign(self.anchors, boxes_BN4, labels_BN, self.match_iou)
        positive_BA = index_BA >= 0
        count = positive_BA.sum().clamp(min=1)
        if boxes_BN4.shape[1] == 0:  # a batch of negatives alone
            boxes_BN4, labels_BN = (
                boxes_BN4.new_zeros(len(boxes_BN4), 1, 4),
                labels_BN.new_zeros(len(labels_BN), 1),
            )
        nearest_BA = index_BA.clamp(min=0)
        boxes_BA4 = boxes_BN4.gather(1, nearest_BA[..., None].expand(-1, -1, 4))
        classes_BA = labels_BN.gather(1, nearest_BA)
        box = F.smooth_l1_loss(deltas, encode(boxes_BA4, self.anchors), reduction="none").sum(dim=-1)
        box_loss = torch.where(positive_BA, box, 0).sum()
        if self.loss_name == "focal":
            classes_BA = classes_BA.where(positive_BA, -1)
            class_loss = sigmoid_focal(logits[..., 1:], classes_BA, self.focal_alpha, self.focal_gamma)
        else:
            classes_BA = (classes_BA + 1).where(positive_BA, 0)
            class_loss = hard_negative_cross_entropy(logits, classes_BA, self.negative_ratio)
        return {"class": class_loss / count, "box": box_loss / count}

    def postprocess(self, outputs: tuple[Tensor, Tensor], score_threshold: float = 0.01) -> Detections:
        """Class-wise NMS over the best `candidates` (box, class) pairs of each image."""
        deltas, logits = (output.float() for output in outputs)
        batch, columns = len(logits), self.num_classes
        top = min(self.candidates, logits.shape[1] * columns)
        scores_BK, flat_BK = logits[..., 1:].flatten(1).topk(top)
        scores_BK = scores_BK.sigmoid()
        anchor_BK, label_BK = flat_BK // columns, flat_BK % columns
        deltas = deltas.gather(1, anchor_BK[..., None].expand(-1, -1, 4))
        boxes_BK4 = decode(deltas, self.anchors[anchor_BK]).clamp(0, self.resolution)

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


def _per_anchor(x: Tensor, columns: int) -> Tensor:
    """Head output (B, anchors * columns, H, W) to (B, H * W * anchors, columns); free in channels_last."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1, columns)
