"""At each validation: the confusion matrix and the worst mistakes, in TensorBoard and in the run folder."""

import numpy as np
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure

from tasks.classification.task import ClassificationTask
from tasks.engine.figures import log_image, render_figure

NAMED = 40  # classes; with more of them their names would not be legible


def confusion_figure(matrix: np.ndarray, labels: list[str]) -> Figure:
    """Rows of a confusion matrix (C, C) as shares."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(12, 4 + 0.25 * len(labels))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    figure.colorbar(axes.imshow(shares, vmin=0, vmax=1, cmap="Blues"), shrink=0.7)
    axes.set(xlabel="predicted", ylabel="truth", title="share of each class's images")
    if len(labels) <= NAMED:
        axes.set_xticks(range(len(labels)), labels, rotation=90)
        axes.set_yticks(range(len(labels)), labels)
    return figure


class MistakeImages(Callback):
    """Draws before the task forgets what it measured: callbacks hear of the epoch's end first."""

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, ClassificationTask)
        matrix = module.confusion.compute().cpu().numpy()  # from all ranks, so all must ask
        if not trainer.is_global_zero:
            return
        log_image(trainer, "confusion", render_figure(confusion_figure(matrix, module.labels)))
        page = module.mistakes.page(module.labels)
        if page is not None:
            log_image(trainer, "mistakes", page)
