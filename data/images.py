"""Reading pictures: what can go wrong with a file, said with its path."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor


class BadImage(Exception):
    """A picture that cannot be read. Its arguments are the path and the reason."""

    def __init__(self, path: Path, reason: object) -> None:
        super().__init__(str(path), " ".join(str(reason).split()))


def read_image(path: Path, at_least: int, content: bytes | None = None) -> tuple[Tensor, tuple[int, int]]:
    """RGB uint8 (3, H, W) and the file's own (height, width).

    A JPEG is decoded at 1/2, 1/4 or 1/8 scale where both sides stay `at_least` pixels: that is several times
    faster, and the rest of the resizing has less to read. `content` is what the file holds, if it was read already.

    Raises:
        BadImage: the file is absent, truncated or not a picture.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            width, height = image.size
            image.draft("RGB", (at_least, at_least))
            pixels = np.array(image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise BadImage(path, "it is not a picture of a known kind") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else error
        raise BadImage(path, reason) from error
    return torch.from_numpy(pixels).permute(2, 0, 1), (height, width)
