"""Small images with what is said of them beside them, for on them it would hide the face."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

HEIGHT, WIDTH, LINE = 240, 220, 18  # pixels: the least height of a source, the panel, a line of text


def beside(image: Tensor, lines: Sequence[str]) -> Tensor:
    """The source (3, H, W) uint8, enlarged where it is small, with lines of text to its right."""
    source = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))
    scale = max(1.0, HEIGHT / source.height)
    size = max(1, round(source.height * scale / HEIGHT))
    source = source.resize((round(source.width * scale), round(source.height * scale)))
    canvas = Image.new("RGB", (source.width + size * WIDTH, source.height), (20, 20, 20))
    canvas.paste(source)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14 * size)
    for i, line in enumerate(lines):
        draw.text((source.width + 8 * size, (4 + i * LINE) * size), line, fill=(255, 255, 255), font=font)
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1).contiguous()
