"""How images of a validation reach TensorBoard and the run folder."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.io import encode_png

from data.classification import ImageSet

matplotlib.rcParams["text.parse_math"] = False  # names of classes may hold dollar signs

HEIGHT, WIDTH, LINE = 240, 220, 18  # pixels: the least height of an image, the panel beside it, a line of text


def log_image(trainer: Trainer, name: str, image: Tensor) -> None:
    """An image (3, H, W) uint8 as <name>.png in the run folder and under that name in TensorBoard."""
    if trainer.is_global_zero and isinstance(trainer.logger, TensorBoardLogger):
        trainer.logger.experiment.add_image(name, image, trainer.global_step)
        path = Path(trainer.logger.log_dir) / f"{name.replace('/', '-')}.png"
        path.write_bytes(encode_png(image.contiguous()).numpy().tobytes())  # write_png hides why it fails


def render_figure(figure: Figure) -> Tensor:
    """A figure as an image (3, H, W) uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3]).permute(2, 0, 1)


def captioned(image: Tensor, lines: list[str]) -> Tensor:
    """The image (3, H, W) with lines of text on a dark bar at its top."""
    if not lines:
        return image
    canvas = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))
    size = max(9, canvas.height // 18)
    font, draw = ImageFont.load_default(size), ImageDraw.Draw(canvas)
    draw.rectangle((0, 0, canvas.width, (size + 3) * len(lines) + 3), fill=(20, 20, 20))
    for i, line in enumerate(lines):
        draw.text((4, 2 + i * (size + 3)), line, fill=(255, 255, 255), font=font)
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1)


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


def thumbnail(dataset: ImageSet, row: int, side: int) -> Tensor:
    """An image of a split, (3, side, side) uint8."""
    image = dataset[row]["image"][None].contiguous()
    return torch.nn.functional.interpolate(image, (side, side), mode="bilinear")[0]
