"""Augmentation for detection, on uint8 images and their boxes (torchvision.transforms.v2)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

MOSAIC_VISIBLE = 0.3  # of a box


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
            if overlap >= 1.0 or not len(boxes):  # the image as it is
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


def mosaic(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Four images (3, R, R) with `boxes` and `labels` as one (YOLOv4, section 3.3): a random window, of a side from R
    to 2 R, of the sheet of 2 x 2, resized to R. Boxes less than MOSAIC_VISIBLE of which is in the window are dropped.
    """
    side = samples[0]["image"].shape[-1]
    rows = [torch.cat([samples[i]["image"], samples[i + 1]["image"]], dim=2) for i in (0, 2)]
    corners = torch.tensor([[0, 0], [side, 0], [0, side], [side, side]]).repeat(1, 2)
    boxes = torch.cat([s["boxes"].as_subclass(Tensor) + c for s, c in zip(samples, corners, strict=True)])
    window = side + int(torch.randint(side + 1, ()))
    left, top = torch.randint(2 * side - window + 1, (2,)).tolist()
    image = v2.functional.resized_crop(torch.cat(rows, dim=1), top, left, window, window, [side, side])
    moved = (boxes - torch.tensor([left, top, left, top])) * (side / window)
    inside = moved.clamp(0, side)
    areas = [(b[:, 2:] - b[:, :2]).prod(dim=1) for b in (inside, moved)]
    kept = areas[0] > MOSAIC_VISIBLE * areas[1]
    labels = torch.cat([s["labels"] for s in samples])
    return samples[0] | {"image": image, "boxes": inside[kept], "labels": labels[kept]}


def detection_transforms(resolution: int, crop: bool, flip: bool, zoom_out: float = 0.0) -> v2.Compose:
    """SSD's augmentation of an image and its boxes, but for light and colour, to (3, resolution, resolution)."""
    # SanitizeBoundingBoxes would drop a box that leaves the image by a rounding error
    steps: list[torch.nn.Module] = [v2.ClampBoundingBoxes()]
    if zoom_out:
        steps.append(v2.RandomZoomOut(fill=127, side_range=(1.0, 2.0), p=zoom_out))
    if crop:
        steps.append(BatchedIoUCrop())
    steps.append(v2.Resize((resolution, resolution)))
    if flip:
        steps.append(v2.RandomHorizontalFlip())
    return v2.Compose([*steps, v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=2)])


class Augmentation:
    """What becomes of an annotated image on its way into a batch; settings as of `detection_transforms` and `light`."""

    def __init__(self, resolution: int, crop: bool, flip: bool, zoom_out: float, photometric: float) -> None:
        self.transforms = detection_transforms(resolution, crop, flip, zoom_out)
        self.light = light(photometric)

    def __call__(self, image: Tensor, boxes: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        """The sample of an image (3, H, W) uint8 with boxes (N, 4) in its pixels and labels (N,), but for light."""
        sample = {
            "image": tv_tensors.Image(image),
            "boxes": tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=image.shape[1:]),
            "labels": torch.from_numpy(labels),
        }
        return self.transforms(sample)

    mosaic = staticmethod(mosaic)


def light(probability: float) -> torch.nn.Module:
    """Changes light and colour of an image with a probability; comes last, where there are fewest pixels."""
    return v2.RandomApply([v2.ColorJitter(0.3, 0.3, 0.3)], probability) if probability else torch.nn.Identity()
