"""The validation images that the classifier gets most confidently wrong."""

from typing import NamedTuple

import torch
from torch import Tensor

from data.classification import ClassificationBatch
from tasks.engine.figures import captioned

MOST = 16  # mistakes that are kept


class Mistake(NamedTuple):
    """An image (3, R, R) uint8 and the class predicted for it, with probability `score`."""

    score: float
    image: Tensor
    truth: int
    predicted: int
    path: str


class Mistakes:
    """Keeps the MOST worst mistakes added since the last `clear`."""

    def __init__(self) -> None:
        self.worst: list[Mistake] = []

    def clear(self) -> None:
        self.worst = []

    def add(self, batch: ClassificationBatch, scores_BC: Tensor) -> None:
        score, predicted = scores_BC.max(dim=1)
        rank = score.where(predicted != batch.labels, -1)
        top = rank.topk(min(MOST, len(rank)))
        rows = [(s, i) for s, i in zip(top.values.tolist(), top.indices.tolist(), strict=True) if s >= 0]
        for s, i in rows:
            if len(self.worst) == MOST and s <= self.worst[-1].score:
                break
            mistake = Mistake(s, batch.images[i].cpu(), int(batch.labels[i]), int(predicted[i]), batch.paths[i])
            if any(m.path == mistake.path and torch.equal(m.image, mistake.image) for m in self.worst):
                continue  # it replaced an unreadable image
            self.worst = sorted([*self.worst, mistake], key=lambda m: -m.score)[:MOST]

    def page(self, labels: list[str], side: int = 224) -> Tensor | None:
        """The images in a grid (3, H, W), each with its true and predicted class; None where nothing is wrong."""
        from torchvision.utils import make_grid

        if not self.worst:
            return None
        cells = []
        for m in self.worst:
            image = torch.nn.functional.interpolate(m.image[None].contiguous(), (side, side), mode="bilinear")[0]
            cells.append(captioned(image, [f"is {labels[m.truth]}", f"said {labels[m.predicted]} {m.score:.2f}"]))
        return make_grid(torch.stack(cells), nrow=4, padding=4, pad_value=255)
