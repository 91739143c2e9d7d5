"""Precision against recall of every class."""

import numpy as np
from matplotlib.figure import Figure

from tasks.detection.coco_eval import average

NAMED = 12  # classes that are drawn; of more, only the best and the worst


def precision_recall(precision: np.ndarray, labels: list[str]) -> Figure:
    """Curves at IoU 0.5 and, thinner, at 0.75, of precision (10, 101, C, 4) as in `coco_eval.Figures`."""
    ap50 = [average(precision[0, :, i, 0]) for i in range(len(labels))]
    shown = [i for i in np.argsort(ap50, kind="stable")[::-1].tolist() if ap50[i] >= 0]
    if len(shown) > NAMED:
        shown = shown[: NAMED // 2] + shown[-NAMED // 2 :]
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    recall = np.linspace(0, 1, precision.shape[1])
    for colour, i in enumerate(shown):
        axes.plot(recall, precision[0, :, i, 0], f"C{colour % 10}", label=f"{labels[i]}  {ap50[i]:.2f}")
        axes.plot(recall, precision[5, :, i, 0], f"C{colour % 10}", linewidth=0.7, linestyle="--")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title("IoU 0.5, and 0.75 dashed")
    axes.grid(alpha=0.3)
    if shown:
        axes.legend(title="AP50", loc="lower left", fontsize=8)
    return figure
