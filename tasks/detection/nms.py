"""Non-maximum suppression whose result has a fixed shape, so that a network with it can be exported."""

import torch
from torch import Tensor


@torch.library.custom_op("mobilenets::nms_mask", mutates_args=())
def nms_mask(boxes: Tensor, scores: Tensor, iou: float, threshold: float) -> Tensor:
    """1 for each box that class-wise NMS keeps, else 0, (B, N) float.

    Boxes (B, N, 4) are xyxy; scores (B, C, N) are above `threshold` in one class at most for each box.
    """
    from torchvision.ops import nms

    result = scores.new_zeros(boxes.shape[:2])
    for image, column in torch.unique((scores > threshold).nonzero()[:, :2], dim=0).tolist():
        mine = torch.nonzero(scores[image, column] > threshold)[:, 0]
        result[image, mine[nms(boxes[image, mine], scores[image, column, mine], iou)]] = 1
    return result


@nms_mask.register_fake
def _(boxes: Tensor, scores: Tensor, iou: float, threshold: float) -> Tensor:
    return scores.new_empty(boxes.shape[:2])
