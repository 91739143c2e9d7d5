"""Writes images of a validation to TensorBoard and the run folder."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backbones.files import atomic_write
from data.classification import ImageSet
from tasks.engine import drawing

if TYPE_CHECKING:
    from lightning import Trainer


def log_image(trainer: "Trainer", name: str, image: Tensor) -> None:
    """An image (3, H, W) uint8 as <name>.png in the run folder and under that name in TensorBoard."""
    from lightning.pytorch.loggers import TensorBoardLogger
    from torchvision.io import encode_png

    if trainer.is_global_zero and isinstance(trainer.logger, TensorBoardLogger):
        trainer.logger.experiment.add_image(name, image, trainer.global_step)
        path = Path(trainer.logger.log_dir) / f"{name.replace('/', '-')}.png"
        with atomic_write(path) as file:
            file.write(encode_png(image.contiguous()).numpy().tobytes())  # write_png hides why it fails


def to_pil(image: Tensor) -> Image.Image:
    """An image (3, H, W) uint8 for Pillow."""
    return Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))


def to_tensor(image: Image.Image) -> Tensor:
    """Pillow's RGB image as (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def captioned(image: Tensor, lines: list[str]) -> Tensor:
    """The image (3, H, W) with lines of text on a dark bar at its top."""
    return to_tensor(drawing.captioned(to_pil(image), lines))


def thumbnail(dataset: ImageSet, row: int, side: int) -> Tensor:
    """An image of a split, (3, side, side) uint8."""
    image = dataset[row]["image"][None].contiguous()
    return torch.nn.functional.interpolate(image, (side, side), mode="bilinear")[0]
