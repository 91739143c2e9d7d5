"""Small pictures with what is said of them beside them, for on them it would hide the face."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

HEIGHT, WIDTH, LINE = 240, 220, 18  # pixels: the least height of a picture, the panel, a line of text


def beside(image: Tensor, lines: Sequence[str]) -> Tensor:
    """The picture (3, H, W) uint8, enlarged where it is small, with lines of text to its right."""
    picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))
    scale = max(1.0, HEIGHT / picture.height)
    size = max(1, round(picture.height * scale / HEIGHT))
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    canvas = Image.new("RGB", (picture.width + size * WIDTH, picture.height), (20, 20, 20))
    canvas.paste(picture)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14 * size)
    for i, line in enumerate(lines):
        draw.text((picture.width + 8 * size, (4 + i * LINE) * size), line, fill=(255, 255, 255), font=font)
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1).contiguous()
