"""The worst mistakes on the attributes with the lowest average precision."""

import torch
from torch import Tensor
from torchvision.utils import make_grid

from data.classification import ImageSet
from tasks.engine.figures import captioned, thumbnail

WORST, EACH, SIDE = 4, 4, 160  # attributes; images of each kind of mistake; pixels


def worst_attributes(
    names: list[str], precision: Tensor, index: Tensor, scores: Tensor, labels: Tensor, dataset: ImageSet
) -> dict[str, Tensor]:
    """A page of mistakes for each attribute of the lowest average `precision` (A,), nan if no image has the attribute.

    `index` (N,) are the images' rows in the split; their scores and labels are (N, A).
    """
    order = precision.nan_to_num(2).argsort()[:WORST].tolist()
    return {
        f"worst/{place}": mistakes_page(names[i], scores[:, i], labels[:, i], index, dataset)
        for place, i in enumerate(order, start=1)
    }


def mistakes_page(name: str, scores: Tensor, labels: Tensor, index: Tensor, dataset: ImageSet) -> Tensor:
    """Top row: images with the attribute and the lowest scores; bottom row: those without it and the highest."""
    cells = []
    for truth, worst_first in ((1, scores), (0, -scores)):
        of_truth = (labels == truth).nonzero()[:, 0]
        rows = of_truth[worst_first[of_truth].argsort()][:EACH].tolist()
        for row in rows:
            image = thumbnail(dataset, int(index[row]), SIDE)
            cells.append(captioned(image, [f"{name} {scores[row]:.2f}", "has it" if truth else "lacks it"]))
        cells += [torch.full((3, SIDE, SIDE), 255, dtype=torch.uint8)] * (EACH - len(rows))
    return make_grid(torch.stack(cells), nrow=EACH, padding=4, pad_value=255)
