"""Augmentation for detection: a sample shows a window of an image, mirrored or not, or of four images at once.

Boxes (N, 4) are xyxy. Crop windows are chosen first, so that each pixel is resized once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.crops import resize_box

# minimum IoU of a window with some object, drawn from these (SSD, section 2.2); or the window is the whole image
OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
TRIALS = 40
SMALLEST, NARROWEST = 0.3, 0.5  # minimum sides of a window as fractions of the image's, minimum aspect ratio
MOSAIC_VISIBLE = 0.3  # minimum fraction of a box that a mosaic must show
LEAST = 2  # minimum width and height of a box, pixels
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue


@dataclass(frozen=True)
class View:
    """The part of an image (3, H, W) uint8 that a sample shows: a window, xyxy in pixels, boxes (N, 4), labels (N,)."""

    image: Tensor
    window: tuple[int, int, int, int]
    mirrored: bool
    boxes: np.ndarray  # normalised to the window, 0 to 1
    labels: np.ndarray

    def pixels(self, x: tuple[float, float], y: tuple[float, float], width: int, height: int) -> Tensor:
        """A part of the window, `x` and `y` as fractions of its sides, resized to (3, height, width)."""
        if self.mirrored:
            x = 1 - x[1], 1 - x[0]
        left, top, right, bottom = self.window
        across, down = right - left, bottom - top
        box = left + x[0] * across, top + y[0] * down, left + x[1] * across, top + y[1] * down
        part = resize_box(self.image, box, height, width)
        return part.flip(-1) if self.mirrored else part


def draw_window(width: int, height: int, boxes: np.ndarray) -> tuple[int, int, int, int]:
    """SSD's random crop (section 2.2), with the distribution of torchvision's RandomIoUCrop, all trials at once."""
    while len(boxes) and (choice := int(torch.randint(len(OVERLAPS) + 1, ()))) < len(OVERLAPS):
        draws = torch.rand(TRIALS, 4).numpy()
        size = ((SMALLEST + (1 - SMALLEST) * draws[:, :2]) * (width, height)).astype(int).clip(min=1)
        corner = (((width, height) - size) * draws[:, 2:]).astype(int)
        ratio = size[:, 0] / size[:, 1]
        windows = np.concatenate([corner, corner + size], axis=1)[(ratio >= NARROWEST) & (ratio <= 1 / NARROWEST)]
        valid = (centered_iou(windows, boxes).max(axis=1) >= OVERLAPS[choice]).nonzero()[0]
        if len(valid):
            left, top, right, bottom = windows[valid[0]].tolist()
            return left, top, right, bottom
    return 0, 0, width, height


def centered_iou(windows: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU (W, N) of windows (W, 4) with the boxes whose centres they contain; -1 for others."""
    windows, boxes = windows[:, None], boxes[None]
    shared = (np.minimum(windows[..., 2:], boxes[..., 2:]) - np.maximum(windows[..., :2], boxes[..., :2])).clip(min=0)
    intersection = shared.prod(axis=-1)
    union = sum((b[..., 2:] - b[..., :2]).prod(axis=-1) for b in (windows, boxes)) - intersection
    return np.where(centered(boxes, windows), intersection / np.maximum(union, 1e-9), -1)


def centered(boxes: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Whether the centres of boxes are inside a window."""
    centers = (boxes[..., :2] + boxes[..., 2:]) / 2
    inside: np.ndarray = ((centers > window[..., :2]) & (centers < window[..., 2:])).all(axis=-1)
    return inside


def view(image: Tensor, boxes: np.ndarray, labels: np.ndarray, *, crop: bool, flip: bool) -> View:
    """A view of an image and its boxes, in pixels: a random window if `crop`, mirrored half the time if `flip`."""
    height, width = image.shape[1:]
    boxes = boxes.clip(0, [width, height] * 2)
    window = draw_window(width, height, boxes) if crop else (0, 0, width, height)
    left, top, right, bottom = window
    if window != (0, 0, width, height):
        kept = centered(boxes, np.array(window))
        boxes, labels = boxes[kept], labels[kept]
    normalised = ((boxes - [left, top] * 2) / ([right - left, bottom - top] * 2)).clip(0, 1)
    mirrored = flip and bool(torch.rand(()) < 0.5)
    if mirrored:
        normalised[:, [0, 2]] = 1 - normalised[:, [2, 0]]
    return View(image, window, mirrored, normalised, labels)


def one_view(seen: View, side: int) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """A view as an image (3, side, side) with the boxes in its pixels and their labels."""
    boxes = seen.boxes * side
    kept = (boxes[:, 2:] - boxes[:, :2] >= LEAST).all(axis=1)
    return seen.pixels((0, 1), (0, 1), side, side), boxes[kept], seen.labels[kept]


def mosaic(views: Sequence[View], side: int) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Four views as one image (YOLOv4, section 3.3): a random window of a grid of 2 x 2 views of `side` pixels each;
    the window's side is one to two times `side`. Boxes of which it shows less than MOSAIC_VISIBLE are dropped.
    """
    extent = side + int(torch.randint(side + 1, ()))
    corner = torch.randint(2 * side - extent + 1, (2,)).tolist()
    zoom = side / extent
    meet = [round((side - at) * zoom) for at in corner]  # x and y of the point where the four views meet
    image = torch.empty(3, side, side, dtype=torch.uint8)
    boxes = []

    def shown(pixels: tuple[int, int], at: int, place: int) -> tuple[float, float]:
        """The part of a view's side that these pixels of the result show."""
        start, end = (min(1.0, max(0.0, (v / zoom + at) / side - place)) for v in pixels)
        return start, end

    for i, seen in enumerate(views):
        place = i % 2, i // 2  # column and row
        x, y = ((at, side) if second else (0, at) for at, second in zip(meet, place, strict=True))
        if x[0] < x[1] and y[0] < y[1]:
            parts = shown(x, corner[0], place[0]), shown(y, corner[1], place[1])
            image[:, slice(*y), slice(*x)] = seen.pixels(*parts, width=x[1] - x[0], height=y[1] - y[0])
        boxes.append(((seen.boxes + place * 2) * side - corner * 2) * zoom)
    moved = np.concatenate(boxes)
    inside = moved.clip(0, side)
    areas = [(b[:, 2:] - b[:, :2]).prod(axis=1) for b in (inside, moved)]
    kept = (areas[0] > MOSAIC_VISIBLE * areas[1]) & (inside[:, 2:] - inside[:, :2] >= LEAST).all(axis=1)
    return image, inside[kept], np.concatenate([seen.labels for seen in views])[kept]


def change_light(image: Tensor) -> Tensor:
    """An image (3, H, W) uint8 with brightness, contrast and saturation each changed by up to 30 %."""
    brightness, contrast, saturation = (0.7 + 0.6 * torch.rand(3)).tolist()
    luma, pixels = torch.tensor(LUMA), image.flatten(1).float()
    mix = brightness * contrast * (saturation * torch.eye(3) + (1 - saturation) * luma.expand(3, 3))
    offset = brightness * (1 - contrast) * float(luma @ pixels.mean(dim=1)) + 0.5  # to round
    changed = torch.addmm(torch.full((3, 1), offset), mix, pixels)
    return changed.clamp_(0, 255).to(torch.uint8).view_as(image)
