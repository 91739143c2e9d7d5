"""Matplotlib figures as images. Import it only where figures are drawn: it takes a quarter of torch's import time."""

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

matplotlib.rcParams["text.parse_math"] = False  # names of classes may hold dollar signs


def render_figure(figure: Figure) -> Tensor:
    """A figure as an image (3, H, W) uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3]).permute(2, 0, 1)
