"""The confusion matrix."""

import numpy as np
from matplotlib.figure import Figure

NAMED = 40  # classes; with more of them their names would not be legible


def confusion_figure(matrix: np.ndarray, labels: list[str]) -> Figure:
    """A confusion matrix (C, C), normalised by row."""
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
