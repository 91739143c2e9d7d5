"""At each validation: the confusion matrix and the worst mistakes, in TensorBoard and in the run folder."""

from pathlib import Path

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torchvision.io import write_png

from tasks.classification.task import ClassificationTask

NAMED = 40  # classes; with more of them their names would not be legible


def confusion_picture(matrix: np.ndarray, labels: list[str]) -> Tensor:
    """Rows of a confusion matrix (C, C) as shares, in a picture (3, H, W) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(12, 4 + 0.25 * len(labels))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    figure.colorbar(axes.imshow(shares, vmin=0, vmax=1, cmap="Blues"), shrink=0.7)
    axes.set(xlabel="predicted", ylabel="truth", title="share of each class's pictures")
    if len(labels) <= NAMED:
        axes.set_xticks(range(len(labels)), labels, rotation=90)
        axes.set_yticks(range(len(labels)), labels)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3]).permute(2, 0, 1)


class MistakePictures(Callback):
    """Draws before the task forgets what it measured: callbacks hear of the epoch's end first."""

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, ClassificationTask)
        matrix = module.confusion.compute().cpu().numpy()  # from all ranks, so all must ask
        if not trainer.is_global_zero or not isinstance(trainer.logger, TensorBoardLogger):
            return
        pages = {
            "confusion": confusion_picture(matrix, module.labels),
            "mistakes": module.mistakes.page(module.labels),
        }
        for name, page in pages.items():
            if page is not None:
                trainer.logger.experiment.add_image(name, page, trainer.global_step)
                write_png(page.contiguous(), str(Path(trainer.logger.log_dir) / f"{name}.png"))
