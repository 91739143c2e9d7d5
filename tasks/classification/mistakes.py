"""The validation images that the classifier gets most confidently wrong."""

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.utils import make_grid

from data.classification import ClassificationBatch


class Mistake(NamedTuple):
    """An image (3, R, R) uint8 and what was said of it with probability `score`."""

    score: float
    image: Tensor
    truth: int
    predicted: int
    path: str


class Mistakes:
    """Keeps the `count` worst of all that was added since the last `clear`."""

    def __init__(self, count: int = 16) -> None:
        self.count = count
        self.worst: list[Mistake] = []

    def clear(self) -> None:
        self.worst = []

    def add(self, batch: ClassificationBatch, scores_BC: Tensor) -> None:
        score, predicted = scores_BC.max(dim=1)
        rank = score.where(predicted != batch.labels, -1)
        top = rank.topk(min(self.count, len(rank)))
        rows = [(s, i) for s, i in zip(top.values.tolist(), top.indices.tolist(), strict=True) if s >= 0]
        for s, i in rows:
            if len(self.worst) == self.count and s <= self.worst[-1].score:
                break
            mistake = Mistake(s, batch.images[i].cpu(), int(batch.labels[i]), int(predicted[i]), batch.paths[i])
            self.worst = sorted([*self.worst, mistake], key=lambda m: -m.score)[: self.count]

    def page(self, labels: list[str], side: int = 224) -> Tensor | None:
        """The images in a grid (3, H, W), each with its truth and what was said; None where nothing is wrong."""
        if not self.worst:
            return None
        cells = []
        for m in self.worst:
            image = torch.nn.functional.interpolate(m.image[None].contiguous(), (side, side), mode="bilinear")[0]
            cells.append(captioned(image, [f"is {labels[m.truth]}", f"said {labels[m.predicted]} {m.score:.2f}"]))
        return make_grid(torch.stack(cells), nrow=4, padding=4, pad_value=255)


def captioned(image: Tensor, lines: list[str]) -> Tensor:
    """The image (3, H, W) with lines of text on a dark bar at its top."""
    if not lines:
        return image
    canvas = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))
    size = max(9, canvas.height // 18)
    font, draw = ImageFont.load_default(size), ImageDraw.Draw(canvas)
    draw.rectangle((0, 0, canvas.width, (size + 3) * len(lines) + 3), fill=(20, 20, 20))
    for i, line in enumerate(lines):
        draw.text((4, 2 + i * (size + 3)), line, fill=(255, 255, 255), font=font)
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1)
