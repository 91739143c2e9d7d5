"""Reading pictures: what can go wrong with a file, said with its path."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from data.tar import is_member, read_member

ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # EXIF


class BadImage(Exception):
    """A picture that cannot be read. Its arguments are the path and the reason."""

    def __init__(self, path: Path, reason: object) -> None:
        super().__init__(str(path), " ".join(str(reason).split()))


def read_image(
    path: Path, at_least: int, upright: bool = False, content: bytes | None = None
) -> tuple[Tensor, tuple[int, int]]:
    """RGB uint8 (3, H, W) and the file's own (height, width).

    `upright` turns the picture as its EXIF orientation says. Annotated data is read as it is stored, which is what
    its boxes mean.

    A JPEG is decoded at 1/2, 1/4 or 1/8 scale where both sides stay `at_least` pixels: that is several times
    faster, and the rest of the resizing has less to read. `content` is what the file holds, if it was read already.

    Raises:
        BadImage: the file is absent, truncated or not a picture.
    """
    try:
        if content is None and is_member(path):
            content = read_member(path)
        with Image.open(path if content is None else io.BytesIO(content)) as file:
            width, height = file.size
            file.draft("RGB", (at_least, at_least))
            image: Image.Image = file
            if image.mode.startswith("I;16"):  # Pillow would clip, not scale
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if upright and image.getexif().get(ORIENTATION, 1) in SIDEWAYS:
                width, height = height, width
            turned = ImageOps.exif_transpose(image) if upright else image
            pixels = np.array(turned.convert("RGB"))
    except UnidentifiedImageError as error:
        raise BadImage(path, "it is not a picture of a known kind") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else error
        raise BadImage(path, reason) from error
    return torch.from_numpy(pixels).permute(2, 0, 1), (height, width)
