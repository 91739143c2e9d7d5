"""Crop boxes, in pixels."""

import math
import random
from typing import Any

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
CENTER = 7 / 8  # side of the centre crop as a fraction of the shorter side, as in most ImageNet evaluations
RATIO = (3 / 4, 4 / 3)


def random_box(
    height: int,
    width: int,
    min_scale: float,
    within: Box | None = None,
    rng: Any = random,
    ratios: tuple[float, float] = RATIO,
) -> Box:
    """The random resized crop of Inception: `min_scale` to all of the area, an aspect ratio between `ratios`.

    The same distribution as torchvision's RandomResizedCrop; `within` confines it to a part of the image.
    `rng` is the module `random` or a `random.Random`.
    """
    left, top, right, bottom = _inside(within, height, width)
    width, height = int(right - left), int(bottom - top)
    for _ in range(10):
        area = rng.uniform(min_scale, 1) * width * height
        ratio = math.exp(rng.uniform(math.log(ratios[0]), math.log(ratios[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            x, y = left + rng.randint(0, width - w), top + rng.randint(0, height - h)
            return x, y, x + w, y + h
    # the largest central crop that the ratios allow
    w, h = min(width, round(height * ratios[1])), min(height, round(width / ratios[0]))
    x, y = left + (width - w) // 2, top + (height - h) // 2
    return x, y, x + w, y + h


def _inside(box: Box | None, height: int, width: int) -> Box:
    """The part of a box that lies in the image; the whole image without a box, or if that part is under a pixel."""
    left, top, right, bottom = box or (0, 0, width, height)
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    return (left, top, right, bottom) if right - left >= 1 and bottom - top >= 1 else (0, 0, width, height)


def full_image(height: int, width: int) -> Box:
    """All of an image."""
    return 0, 0, width, height


def center_box(height: int, width: int, within: Box | None = None, fraction: float = CENTER) -> Box:
    """The central square of `fraction` of the shorter side, or the smallest square around `within`; in the image."""
    if within is None:
        side = fraction * min(height, width)
        x, y = (width - side) / 2, (height - side) / 2
        return x, y, x + side, y + side
    left, top, right, bottom = _inside(within, height, width)
    side = min(max(right - left, bottom - top), height, width)
    x = min(max((left + right - side) / 2, 0), width - side)
    y = min(max((top + bottom - side) / 2, 0), height - side)
    return x, y, x + side, y + side
