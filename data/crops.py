"""Images cropped and resized while they are read: what classification is trained and measured on.

A JPEG is decoded by libjpeg-turbo straight into one buffer, at 1/2, 3/8, 1/4 or 1/8 scale if the crop still has as many
pixels as the network sees; then only the crop is resized, in uint8. tests/benchmarks/input.py measures it.
"""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from torch import Tensor

from data.boxes import Box, center_box, full_image
from data.image_file import SIDEWAYS, START_OF_JPEG, Pixels, check_pixels, jpeg_orientation, read_content, turned
from data.images import read_image


def center_view(image: Tensor, fraction: float, resolution: int) -> Tensor:
    """The central square of a decoded image (3, H, W) uint8, as in validation: (3, resolution, resolution)."""
    return resize_box(image, center_box(image.shape[1], image.shape[2], fraction=fraction), resolution, resolution)


def resize_square(image: Tensor, resolution: int) -> Tensor:
    """All of a decoded image (3, H, W) uint8, of any aspect ratio, as (3, resolution, resolution)."""
    if image.shape[1:] == (resolution, resolution):
        return image
    return resize_box(image, (0, 0, image.shape[2], image.shape[1]), resolution, resolution)


def resize_box(image: Tensor, box: Box, height: int, width: int) -> Tensor:
    """The part `box` of an image (3, H, W) uint8 as (3, height, width), antialiased."""
    return _resize_part(image.permute(1, 2, 0).numpy(), box, height, width)


def _resize_part(pixels: Pixels, box: Box, height: int, width: int) -> Tensor:
    """`resize_box` of pixels (H, W, 3), whose strides may be negative."""
    (left, right), (top, bottom) = (_span(*ends) for ends in zip(box[:2], box[2:], pixels.shape[1::-1], strict=True))
    part = np.ascontiguousarray(pixels[top:bottom, left:right])
    if min(part.strides) < 0:  # of a single row or column, which NumPy takes for contiguous and torch refuses
        part = part.copy()
    # Only dense channels_last uses the vectorised code, which returns channels_last. If permuted before it is a
    # batch, a part with whole rows would look like NCHW by its strides.
    batch = torch.from_numpy(part).unsqueeze(0).permute(0, 3, 1, 2)
    return F.interpolate(batch, (height, width), mode="bilinear", antialias=True)[0]


def _span(start: float, end: float, limit: int) -> tuple[int, int]:
    """Whole pixels, at least one."""
    first = min(round(start), limit - 1)
    return first, max(first + 1, round(end))


def read_crop(path: Path, choose: Callable[[int, int], Box], resolution: int) -> tuple[Tensor, tuple[int, int]]:
    """The part of an image that `choose(height, width)` returns, (3, resolution, resolution) uint8, and the file's
    own (height, width), upright as its EXIF orientation says.

    Raises:
        BadImage: the file is absent, truncated or not an image.
    """
    return decode_crop(read_content(path), path, choose, resolution)


def read_whole(path: Path, resolution: int) -> Tensor:
    """All of an image, resized to (3, resolution, resolution) uint8; raises BadImage as `read_crop`."""
    return read_crop(path, full_image, resolution)[0]


def decode_crop(
    content: bytes, path: Path, choose: Callable[[int, int], Box], resolution: int
) -> tuple[Tensor, tuple[int, int]]:
    """`read_crop` of a file's content; `path` names it in errors."""
    choose = cache(choose)  # a random box is drawn once, also for a JPEG that only Pillow decodes
    if content.startswith(START_OF_JPEG):
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(content)
            check_pixels(path, width, height)
            orientation = jpeg_orientation(content)
            sides = (width, height) if orientation in SIDEWAYS else (height, width)
            box = choose(*sides)
            # the smallest size whose crop still has `resolution` pixels
            need = resolution / min(box[2] - box[0], box[3] - box[1])
            pixels = simplejpeg.decode_jpeg(
                content,
                fastdct=True,
                fastupsample=True,
                min_height=min(height, math.ceil(need * height)),
                min_width=min(width, math.ceil(need * width)),
                min_factor=2,  # the scales above have no vectorised code
            )
        except ValueError:
            pass  # Pillow reads rarer kinds of JPEG, and tolerates harmless errors
        else:
            return _resize(turned(pixels, orientation), box, sides, resolution), sides
    image, (height, width) = read_image(path, 1 << 30, content)
    return crop_decoded(image, (height, width), choose, resolution), (height, width)


def crop_decoded(image: Tensor, size: tuple[int, int], choose: Callable[[int, int], Box], resolution: int) -> Tensor:
    """`read_crop` of an image (3, H, W) that is decoded already, at any scale; `size` is its file's (height, width)."""
    return _resize(image.permute(1, 2, 0).numpy(), choose(*size), size, resolution)


def _resize(pixels: Pixels, box: Box, size: tuple[int, int], resolution: int) -> Tensor:
    """Crops pixels (H, W, 3) of an image whose file has the (height, width) `size`."""
    down, across = pixels.shape[0] / size[0], pixels.shape[1] / size[1]
    scaled = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    return _resize_part(pixels, scaled, resolution, resolution)


class CropReader:
    """Reads crops as `read_crop`. With `kept_side`, images are kept in memory, larger ones as squares."""

    def __init__(self, resolution: int, kept_side: int | None = None) -> None:
        self.resolution, self.kept_side = resolution, kept_side
        self.images: dict[Path, tuple[Tensor, tuple[int, int]]] = {}

    def read(self, path: Path, choose: Callable[[int, int], Box]) -> tuple[Tensor, tuple[int, int]]:
        if self.kept_side is None:
            return read_crop(path, choose, self.resolution)
        if path not in self.images:
            image, size = read_image(path, self.kept_side)
            if min(image.shape[1:]) > self.kept_side:
                image = crop_decoded(image, size, full_image, self.kept_side)
            self.images[path] = image, size
        image, size = self.images[path]
        return crop_decoded(image, size, choose, self.resolution), size
