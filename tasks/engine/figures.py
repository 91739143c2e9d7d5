"""How images of a validation reach TensorBoard and the run folder."""

from pathlib import Path

import matplotlib
import numpy as np
import torch
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.io import encode_png

matplotlib.rcParams["text.parse_math"] = False  # names of classes may hold dollar signs


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
