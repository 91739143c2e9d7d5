"""Reading images; errors name the path of the file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from backbones.errors import UserError
from data.image_file import BadImage, open_image

ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # EXIF
WIDE = ("I", "F")  # Pillow's modes of 32 bits a pixel, integer and float


def read_image(
    path: Path, at_least: int, upright: bool = False, content: bytes | None = None
) -> tuple[Tensor, tuple[int, int]]:
    """RGB uint8 (3, H, W) and the file's own (height, width).

    `upright` turns the image as its EXIF orientation says. Annotated data is read as it is stored, which is what
    its boxes mean.

    A JPEG is decoded at 1/2, 1/4 or 1/8 scale where both sides stay `at_least` pixels: that is several times
    faster, and the rest of the resizing has less to read. `content` is what the file holds, if it was read already.

    Raises:
        BadImage: the file is absent, truncated, not an image, has more pixels than the limit, or 32-bit values.
    """
    with open_image(path, content) as file:
        width, height = file.size
        if file.mode in WIDE:
            raise BadImage(path, "nothing says which of its 32-bit values is white; convert it to 8 or 16 bits")
        file.draft("RGB", (at_least, at_least))
        image: Image.Image = file
        if image.mode.startswith("I;16"):  # Pillow would clip, not scale
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if upright and image.getexif().get(ORIENTATION, 1) in SIDEWAYS:
            width, height = height, width
        turned = ImageOps.exif_transpose(image) if upright else image
        pixels = np.array(turned.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1), (height, width)


def first_readable(read: Callable[[int], dict[str, Any]], index: int, count: int) -> dict[str, Any]:
    """What `read` gives for the first of `count` rows, cyclically from `index`, whose image can be read, with `bad`:
    path and reason of those before.

    Raises:
        UserError: none can be read.
    """
    bad: list[tuple[str, str]] = []
    for step in range(count):
        try:
            return read((index + step) % count) | {"bad": bad}
        except BadImage as error:
            bad.append(error.args)
    raise UserError(f"none of the {count} images can be read, for example {bad[0][0]}: {bad[0][1]}")
