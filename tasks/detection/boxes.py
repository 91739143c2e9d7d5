"""Overlaps of boxes and their suppression, for a whole batch at once.

As in torchvision.ops, whose import costs as much as torch's; prediction has no other use for it.
"""

import torch
from torch import Tensor


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (..., N, M) of xyxy boxes (..., N, 4) with (..., M, 4); nan of two without area."""
    # one coordinate at a time, its values in a row: vector instructions need both
    left, top, right, bottom = a[..., :, None, :].unbind(-1)  # (..., N, 1)
    x0, y0, x1, y1 = b.transpose(-1, -2).contiguous()[..., None, :].unbind(-3)  # (..., 1, M)
    width = (torch.minimum(right, x1) - torch.maximum(left, x0)).clamp(min=0)
    height = (torch.minimum(bottom, y1) - torch.maximum(top, y0)).clamp(min=0)
    shared = width * height
    return shared / (_area(a)[..., :, None] + _area(b)[..., None, :] - shared)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def kept_by_nms(boxes_BK4: Tensor, labels_BK: Tensor, valid_BK: Tensor, iou: float) -> Tensor:
    """Which boxes (B, K) class-wise greedy suppression leaves of the valid ones; each image's best box comes first.

    A box falls where a better one of its class stays and overlaps it by more than `iou`. Begun with all, each round is
    right for one more link of every chain of boxes that suppress each other; chains are short.
    """
    over = (box_iou(boxes_BK4, boxes_BK4) > iou) & (labels_BK[:, :, None] == labels_BK[:, None])
    over_BKK = over.triu(1).to(boxes_BK4.dtype)  # from the better one to the other
    kept = valid_BK
    with torch.autocast(boxes_BK4.device.type, enabled=False):  # it would copy over_BKK in each round
        while True:
            hit = torch.bmm(kept[:, None].to(over_BKK.dtype), over_BKK)[:, 0] > 0
            now = valid_BK & ~hit
            if torch.equal(now, kept):
                return kept
            kept = now
