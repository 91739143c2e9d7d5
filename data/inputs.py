"""Images given by a caller: files, NumPy arrays or Pillow's images. Nothing here needs torch."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from backbones.errors import UserError
from data.image_file import BadImage, Pixels, read_pixels, rgb_pixels

ImageInput = str | os.PathLike[str] | npt.NDArray[Any] | Image.Image


def read_input(source: ImageInput, at_least: int = 1 << 30, name: str = "the image") -> tuple[Pixels, tuple[int, int]]:
    """RGB (H, W, 3) uint8, upright, and the image's own (height, width). A JPEG file may be decoded at a smaller scale,
    with both sides `at_least` pixels. Errors call an array or Pillow's image `name`.

    Raises:
        BadImage: it cannot be read.
        UserError: it is not an image, or an array of another shape or type than (H, W, 3) uint8.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
            raise UserError(f"{name}: an array must be RGB (H, W, 3) uint8, not {source.shape} {source.dtype}")
        return source, source.shape[:2]
    if isinstance(source, Image.Image):
        try:
            pixels = rgb_pixels(source, Path(name))
        except (OSError, ValueError, SyntaxError) as error:  # Pillow reads the image's file only now
            raise BadImage(Path(name), error) from error
        return pixels, (pixels.shape[0], pixels.shape[1])
    if isinstance(source, str | os.PathLike):
        return read_pixels(Path(source), at_least)
    raise UserError(
        f"{name}: give a file name, an RGB array (H, W, 3) uint8 or a PIL image, not {type(source).__name__}"
    )
