"""Reading images; errors name the path of the file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbones.errors import UserError
from data.image_file import BadImage, noting_salvaged, read_pixels


def read_image(path: Path, at_least: int, content: bytes | None = None) -> tuple[Tensor, tuple[int, int]]:
    """RGB uint8 (3, H, W) and the file's own (height, width), upright as its EXIF orientation says.

    A JPEG is decoded at 1/2, 1/4 or 1/8 scale if both sides keep `at_least` pixels: that is several times faster, and
    less is left to resize. `content` is the file's content, if it was read already.

    Raises:
        BadImage: the file is absent, not an image, truncated (a JPEG: by more than half of its rows), has more pixels
            than the limit, or has 32-bit values.
    """
    pixels, size = read_pixels(path, at_least, content)
    return torch.from_numpy(pixels).permute(2, 0, 1), size


def first_readable(read: Callable[[int], dict[str, Any]], index: int, count: int) -> dict[str, Any]:
    """Calls `read` for rows from `index` on, cyclically over `count`, until an image can be read. Adds `bad` to its
    result: path and reason of the unreadable ones before it, and of itself if it is salvaged.

    Raises:
        UserError: none can be read.
    """
    bad: list[tuple[str, str]] = []
    for step in range(count):
        try:
            with noting_salvaged() as salvaged:
                return read((index + step) % count) | {"bad": [*bad, *salvaged]}
        except BadImage as error:
            bad.append(error.args)
    raise UserError(f"none of the {count} images can be read, for example {bad[0][0]}: {bad[0][1]}")
