"""Anchors, the box coder and the assignment of ground truth to anchors, for a whole batch at once.

Boxes are xyxy pixels. Shapes: B images, N ground-truth boxes (padded), A anchors.
"""

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor

from tasks.detection.boxes import box_iou

CODER_SCALES = (10.0, 10.0, 5.0, 5.0)  # TF Object Detection API, faster_rcnn_box_coder
MAX_LOG_SIZE = 4.135  # log(1000 / 16): keeps exp() of an untrained output finite


def ssd_anchors(sizes: Sequence[int], resolution: int) -> Tensor:
    """Anchors (A, 4) of TF's ssd_anchor_generator for square maps of the given sizes, finest first.

    Scales rise evenly from 0.2 to 0.95; the first map has the three anchors (0.1, 1), (s, 2),
    (s, 1/2), the others six. Order: row, column, anchor.
    """
    steps = len(sizes) - 1
    scales = [0.2 + 0.75 * i / steps for i in range(steps + 1)] + [1.0]
    maps = []
    for i, size in enumerate(sizes):
        shapes = [(scales[i], ratio) for ratio in (1.0, 2.0, 1 / 2, 3.0, 1 / 3)]
        shapes.append((sqrt(scales[i] * scales[i + 1]), 1.0))
        if i == 0:
            shapes = [(0.1, 1.0), (scales[0], 2.0), (scales[0], 1 / 2)]
        half = torch.tensor([(s * sqrt(r), s / sqrt(r)) for s, r in shapes]) / 2  # (width, height)
        centres = grid(size, 1 / size)[:, None]
        maps.append(torch.cat([centres - half, centres + half], dim=-1).reshape(-1, 4))
    return torch.cat(maps) * resolution


def pyramid_anchors(sizes: Sequence[int], resolution: int) -> Tensor:
    """Anchors (A, 4) of TF's multiscale_anchor_generator: 4 and 4 sqrt(2) strides wide, ratios 1, 2, 1/2."""
    maps = []
    for size in sizes:
        stride = resolution / size
        shapes = [(4 * stride * scale, ratio) for scale in (1, sqrt(2)) for ratio in (1.0, 2.0, 1 / 2)]
        half = torch.tensor([(s * sqrt(r), s / sqrt(r)) for s, r in shapes]) / 2
        centres = grid(size, stride)[:, None]
        maps.append(torch.cat([centres - half, centres + half], dim=-1).reshape(-1, 4))
    return torch.cat(maps)


def region_anchors(size: int, stride: int, sides: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Anchors (A, 4) of torchvision's AnchorGenerator for one map: around the upper left corners of the cells, in whole
    pixels, each of `sides` in each of `ratios` (height to width).
    """
    shapes = [(side / sqrt(ratio), side * sqrt(ratio)) for ratio in ratios for side in sides]
    half = (torch.tensor(shapes) / 2).round()
    centres = (grid(size, stride) - stride / 2)[:, None]
    return torch.cat([centres - half, centres + half], dim=-1).reshape(-1, 4)


def grid(size: int, stride: float) -> Tensor:
    """Centres (size * size, 2) of the cells of a map, x and y in pixels, row by row."""
    centre = (torch.arange(size) + 0.5) * stride
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


def centre_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centres and sizes, each (..., 2), of boxes (..., 4)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Regression targets (..., 4) of boxes (..., 4) against anchors (..., 4)."""
    centres, sizes = centre_size(boxes)
    anchor_centres, anchor_sizes = centre_size(anchors)
    offsets = (centres - anchor_centres) / anchor_sizes
    logs = torch.log((sizes / anchor_sizes).clamp(min=1e-6))
    return torch.cat([offsets, logs], dim=-1) * boxes.new_tensor(CODER_SCALES)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of `encode`."""
    deltas = deltas / deltas.new_tensor(CODER_SCALES)
    anchor_centres, anchor_sizes = centre_size(anchors)
    centres = anchor_centres + deltas[..., :2] * anchor_sizes
    half = anchor_sizes * deltas[..., 2:].clamp(max=MAX_LOG_SIZE).exp() / 2
    return torch.cat([centres - half, centres + half], dim=-1)


def assign(anchors_A4: Tensor, boxes_BN4: Tensor, labels_BN: Tensor, threshold: float) -> Tensor:
    """For each anchor the index (B, A) of the box it is to predict, or -1 for background.

    An anchor takes the box with the highest IoU if that is at least `threshold`; in addition, every box gets its best
    anchor if they overlap at all (the last of several boxes with the same best anchor). Labels below 0 mark padding.
    """
    iou = box_iou(boxes_BN4, anchors_A4[None]).masked_fill_(labels_BN[..., None] < 0, -1.0)
    if iou.shape[1] == 0:
        return torch.full((iou.shape[0], iou.shape[2]), -1, device=iou.device)
    overlap_BA, index_BA = iou.max(dim=1)
    index_BA = index_BA.where(overlap_BA >= threshold, -1)
    best_BN, anchor_BN = iou.max(dim=2)
    order_BN = torch.arange(iou.shape[1], device=iou.device).where(best_BN > 0, -1)
    forced_BA = torch.full_like(index_BA, -1).scatter_reduce(1, anchor_BN, order_BN, "amax")
    return forced_BA.where(forced_BA >= 0, index_BA)
