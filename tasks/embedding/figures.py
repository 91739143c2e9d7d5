"""The ROC curve and the hardest pairs."""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from data.classification import ImageSet
from tasks.embedding.verification import Roc
from tasks.engine.figures import captioned, thumbnail

EACH, SIDE = 4, 160  # pairs of each kind of mistake; pixels
MOST = 3000  # images searched for hard pairs


def pairs_page(index: np.ndarray, people: np.ndarray, vectors: np.ndarray, dataset: ImageSet) -> Tensor:
    """Top row: the least similar pairs of one person; bottom row: the most similar of two; of the first MOST images."""
    index, people, vectors = index[:MOST], people[:MOST], vectors[:MOST]
    cosine = vectors @ vectors.T
    first, second = np.triu_indices(len(people), 1)
    cosine, same = cosine[first, second], people[first] == people[second]
    cells = []
    for wanted, sign, words in ((same, 1, "one person"), (~same, -1, "two people")):
        found = np.flatnonzero(wanted)
        for i in found[np.argsort(sign * cosine[found])[:EACH]]:
            pair = torch.cat([thumbnail(dataset, int(index[j]), SIDE) for j in (first[i], second[i])], dim=2)
            cells.append(captioned(pair, [f"{words}, similarity {cosine[i]:.2f}"]))
        cells += [torch.full((3, SIDE, 2 * SIDE), 255, dtype=torch.uint8)] * (EACH - min(EACH, len(found)))
    return make_grid(torch.stack(cells), nrow=EACH, padding=4, pad_value=255)


def roc_figure(roc: Roc) -> Figure:
    """True against false accept rate, the latter on a logarithmic axis."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.semilogx(np.maximum(roc.far, 0.5 / max(roc.impostor, 1)), roc.tar)
    axes.set(
        xlabel="false accept rate",
        ylabel="true accept rate",
        ylim=(0, 1.02),
        xlim=(max(1e-6, 1 / max(roc.impostor, 1)), 1),
    )
    axes.grid(alpha=0.4)
    return figure
