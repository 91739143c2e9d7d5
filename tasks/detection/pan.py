"""A lightweight anchor-free detector, after NanoDet-Plus and PicoDet (Yu et al. 2021, arXiv 2111.00902)."""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from tasks.detection.anchors import grid
from tasks.detection.assignment import task_aligned
from tasks.detection.detector import Detector
from tasks.detection.heads import PRIOR, per_anchor, predictor
from tasks.detection.losses import distribution_focal, varifocal
from tasks.detection.necks import PathAggregation, separable
from tasks.detection.ssd import map_sizes

log = logging.getLogger(__name__)

BINS = 8  # of a side's distance, in strides 0 to 7 (Generalized Focal Loss, arXiv 2006.04388)


class PAN(Detector):
    """One point per cell at strides 8 to 64, on a depthwise path-aggregation neck.

    Each point gives class logits and, for the four sides, a distribution over BINS distances. Points are assigned by
    task alignment (TOOD, arXiv 2108.07755) and trained with varifocal, GIoU and distribution focal losses.
    """

    strides = (8, 16, 32)
    points: Tensor
    point_strides: Tensor
    bins: Tensor

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        resolution: int,
        *,
        channels: int = 96,
        head_layers: int = 2,
        topk: int = 13,
        candidates: int = 300,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, num_classes, resolution, candidates=candidates, **settings)
        self.topk = topk
        self.neck = PathAggregation(backbone.channels, channels)
        levels = self.neck.channels
        self.towers = nn.ModuleList(
            nn.Sequential(*(separable(channels, channels) for _ in range(head_layers))) for _ in levels
        )
        self.box_heads = nn.ModuleList(predictor(channels, 4 * BINS) for _ in levels)
        self.class_heads = nn.ModuleList(predictor(channels, num_classes, bias=PRIOR) for _ in levels)
        sizes = map_sizes(backbone, resolution, len(levels))
        if resolution > (largest := 2 * (BINS - 1) * resolution / sizes[-1]):
            words = "at %d px, boxes can be at most %.0f px wide or high: lower task.resolution for larger objects"
            log.warning(words, resolution, largest)
        points = [grid(size, resolution / size) for size in sizes]
        self.register_buffer("points", torch.cat(points), persistent=False)
        spacing = torch.cat([torch.full((size**2,), resolution / size) for size in sizes])
        self.register_buffer("point_strides", spacing, persistent=False)
        self.register_buffer("bins", torch.arange(BINS).float(), persistent=False)

    def class_layers(self) -> list[nn.Module]:
        return [*self.class_heads]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (B, 3, R, R) to side logits (B, A, 4 * BINS) and class logits (B, A, num_classes)."""
        maps = [tower(x) for tower, x in zip(self.towers, self.neck(self.backbone(images)), strict=True)]
        sides = [per_anchor(head(x), 4 * BINS) for head, x in zip(self.box_heads, maps, strict=True)]
        logits = [per_anchor(head(x), self.num_classes) for head, x in zip(self.class_heads, maps, strict=True)]
        return torch.cat(sides, dim=1), torch.cat(logits, dim=1)

    def class_logits(self, outputs: tuple[Tensor, Tensor]) -> Tensor:
        return outputs[1]

    def decode_boxes_at(self, outputs: tuple[Tensor, Tensor], index_BK: Tensor) -> Tensor:
        sides = outputs[0].gather(1, index_BK[..., None].expand(-1, -1, 4 * BINS)).float()
        return self._boxes(sides, self.points[index_BK], self.point_strides[index_BK])

    def decode_all_boxes(self, outputs: tuple[Tensor, Tensor]) -> Tensor:
        return self._boxes(outputs[0].float(), self.points, self.point_strides)

    def _boxes(self, sides: Tensor, points: Tensor, strides: Tensor) -> Tensor:
        """Boxes (..., 4) from side logits (..., 4 * BINS): the mean distance of each side's distribution."""
        # not a matrix product, which autocast would round to bf16, up to a pixel at the coarsest stride
        distances = (sides.unflatten(-1, (4, BINS)).softmax(dim=-1) * self.bins).sum(dim=-1) * strides[..., None]
        return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)

    def loss(self, outputs: tuple[Tensor, Tensor], boxes_BN4: Tensor, labels_BN: Tensor) -> dict[str, Tensor]:
        """Varifocal, GIoU and distribution focal losses, divided by the total alignment quality."""
        from torchvision.ops import generalized_box_iou_loss

        sides, logits = (output.float() for output in outputs)
        predicted = self._boxes(sides, self.points, self.point_strides)
        index_BA, quality_BA = task_aligned(
            logits.detach().sigmoid(), predicted.detach(), self.points, boxes_BN4, labels_BN, self.topk
        )
        total = quality_BA.sum().clamp(min=1)
        image, point = (index_BA >= 0).nonzero(as_tuple=True)
        chosen = index_BA[image, point]
        quality, boxes = quality_BA[image, point], boxes_BN4[image, chosen]
        targets = torch.zeros_like(logits)
        targets[image, point, labels_BN[image, chosen]] = quality

        giou = generalized_box_iou_loss(predicted[image, point], boxes)
        centres, strides = self.points[point], self.point_strides[point, None]
        distances = torch.cat([centres - boxes[:, :2], boxes[:, 2:] - centres], dim=1) / strides
        spread = distribution_focal(sides[image, point].unflatten(-1, (4, BINS)), distances.clamp(0, BINS - 1.01))
        return {
            "class": varifocal(logits, targets) / total,
            "box": 2.0 * (giou * quality).sum() / total,
            "spread": 0.25 * (spread.mean(dim=1) * quality).sum() / total,
        }
