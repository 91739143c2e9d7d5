"""Overlaps and suppression against torchvision.ops."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms
from torchvision.ops import box_iou as torchvisions

from tasks.detection.boxes import box_iou, kept_by_nms


def crowded(batch: int, count: int, side: float, seed: int) -> Tensor:
    """Boxes (B, N, 4) that overlap the more the smaller the side of the plane is."""
    generator = torch.Generator().manual_seed(seed)
    corner = side * torch.rand(batch, count, 2, generator=generator)
    return torch.cat([corner, corner + 1 + 20 * torch.rand(batch, count, 2, generator=generator)], dim=2)


def test_overlaps_are_torchvisions() -> None:
    a, b = crowded(3, 40, 60, 0), crowded(3, 30, 60, 1)
    torch.testing.assert_close(box_iou(a, b), torchvisions(a, b))
    torch.testing.assert_close(box_iou(a, b[0][None]), torchvisions(a, b[0][None].expand(3, -1, -1)))


@pytest.mark.parametrize("side", [10, 40, 200])
@pytest.mark.parametrize("classes", [1, 3, 90])
def test_suppression_is_torchvisions(side: float, classes: int) -> None:
    boxes = crowded(5, 150, side, classes)
    boxes[1, 40:60] = boxes[1, 40]  # the same box many times
    boxes[2, 7, 2:] = boxes[2, 7, :2]  # one without area
    scores = torch.linspace(1, 0, 150)
    labels = torch.randint(classes, (5, 150), generator=torch.Generator().manual_seed(3))
    valid = (scores > 0.1).expand(5, -1)
    kept = kept_by_nms(boxes, labels, valid, 0.5)
    for image in range(5):
        rows = valid[image].nonzero()[:, 0]
        wanted = rows[batched_nms(boxes[image, rows], scores[rows], labels[image, rows], 0.5)]
        assert kept[image].nonzero()[:, 0].tolist() == sorted(wanted.tolist())


def test_a_chain_of_boxes_is_followed_to_its_end() -> None:
    """Each overlaps its neighbours alone: every other one stays."""
    left = torch.arange(0, 60, 3.0)
    boxes = torch.stack([left, torch.zeros(20), left + 10, torch.full((20,), 10.0)], dim=1)[None]
    kept = kept_by_nms(boxes, torch.zeros(1, 20, dtype=torch.long), torch.ones(1, 20, dtype=torch.bool), 0.5)
    assert kept[0].tolist() == [True, False] * 10
    nothing = kept_by_nms(boxes[:, :0], torch.zeros(1, 0), torch.ones(1, 0, dtype=torch.bool), 0.5)
    assert nothing.shape == (1, 0)


def test_suppression_is_the_same_in_mixed_precision() -> None:
    boxes, valid = crowded(2, 150, 40, 0), torch.ones(2, 150, dtype=torch.bool)
    labels = torch.zeros(2, 150, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16):
        kept = kept_by_nms(boxes, labels, valid, 0.5)
    assert torch.equal(kept, kept_by_nms(boxes, labels, valid, 0.5))
