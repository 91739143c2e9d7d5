"""Task-aligned assignment of points to ground truth, for a whole batch at once.

Shapes: B images, N ground-truth boxes (padded), A points, C classes.
"""

import torch
from torch import Tensor

from tasks.detection.boxes import box_iou

CLASS_POWER, IOU_POWER = 1.0, 6.0  # TOOD, section 3.2


def task_aligned(
    scores_BAC: Tensor, boxes_BA4: Tensor, points_A2: Tensor, truth_BN4: Tensor, labels_BN: Tensor, top: int
) -> tuple[Tensor, Tensor]:
    """For each point the index (B, A) of its box, or -1, and the quality of the match (B, A), 0 where -1.

    A box takes the `top` points inside it with the highest score * IoU^6 (TOOD, section 3.2; score of the box's own
    class); a point taken by several boxes goes to the one with the highest IoU. The quality is that product, scaled so
    that the best point of a box has the box's highest IoU (equation 6). Labels below 0 mark padding.
    """
    batch, count = labels_BN.shape
    points = len(points_A2)
    if count == 0:
        empty = torch.full((batch, points), -1, device=labels_BN.device)
        return empty, torch.zeros(batch, points, device=labels_BN.device)
    iou = box_iou(truth_BN4, boxes_BA4)  # (B, N, A)
    labels = labels_BN.clamp(min=0)[:, None].expand(-1, points, -1)
    score_BNA = scores_BAC.gather(2, labels).transpose(1, 2)
    centre = points_A2[None, None]
    inside = ((centre > truth_BN4[:, :, None, :2]) & (centre < truth_BN4[:, :, None, 2:])).all(dim=-1)
    inside &= (labels_BN >= 0)[..., None]
    alignment = (score_BNA**CLASS_POWER * iou**IOU_POWER).masked_fill(~inside, -1.0)

    best, where = alignment.topk(min(top, points), dim=2)
    taken = torch.zeros_like(inside).scatter(2, where, best >= 0)
    overlap_BA, index_BA = iou.masked_fill(~taken, -1.0).max(dim=1)
    index_BA = index_BA.where(overlap_BA >= 0, -1)

    mine = taken & (index_BA[:, None] == torch.arange(count, device=index_BA.device)[:, None])
    alignment = alignment.where(mine, 0)
    highest = alignment.amax(dim=2, keepdim=True).clamp(min=1e-12)
    quality = (alignment / highest * iou.where(mine, 0).amax(dim=2, keepdim=True)).amax(dim=1)
    return index_BA, quality
