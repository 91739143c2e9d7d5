"""Box IoU and non-maximum suppression, for a whole batch at once.

As in torchvision.ops, but without importing torchvision, which takes as long as importing torch.
"""

import torch
from torch import Tensor


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (..., N, M) of xyxy boxes (..., N, 4) with (..., M, 4); NaN if both have no area."""
    # one coordinate at a time, with contiguous values: vector instructions need both
    left, top, right, bottom = a[..., :, None, :].unbind(-1)  # (..., N, 1)
    x0, y0, x1, y1 = b.transpose(-1, -2).contiguous()[..., None, :].unbind(-3)  # (..., 1, M)
    width = (torch.minimum(right, x1) - torch.maximum(left, x0)).clamp(min=0)
    height = (torch.minimum(bottom, y1) - torch.maximum(top, y0)).clamp(min=0)
    shared = width * height
    return shared / (_area(a)[..., :, None] + _area(b)[..., None, :] - shared)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def kept_by_nms(boxes_BK4: Tensor, labels_BK: Tensor, valid_BK: Tensor, iou: float) -> Tensor:
    """Which of the valid boxes (B, K) class-wise greedy NMS keeps; boxes are sorted by score, best first.

    A box is removed if a better one of its class is kept and overlaps it by more than `iou`. Starting with all valid
    boxes, each round settles one more link of every chain of boxes that suppress each other; chains are short.
    """
    over = (box_iou(boxes_BK4, boxes_BK4) > iou) & (labels_BK[:, :, None] == labels_BK[:, None])
    over_BKK = over.triu(1).to(boxes_BK4.dtype)  # [i, j]: the better box i could suppress j
    kept = valid_BK
    with torch.autocast(boxes_BK4.device.type, enabled=False):  # it would copy over_BKK in each round
        while True:
            hit = torch.bmm(kept[:, None].to(over_BKK.dtype), over_BKK)[:, 0] > 0
            now = valid_BK & ~hit
            if torch.equal(now, kept):
                return kept
            kept = now
