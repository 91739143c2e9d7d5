"""Metric-learning losses; `people` (B,) are identity indices."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MARGINS = {"triplet": 0.2, "arcface": 0.5, "cosface": 0.35}  # of the papers


def semi_hard_triplet(embeddings_BD: Tensor, people: Tensor, margin: float) -> Tensor:
    """Mean of max(0, d(a, p) - d(a, n) + margin), d squared, over all pairs of one person (FaceNet, section 3).

    The negative is the nearest one farther than the positive or, if there is none, the farthest of all.
    Zero if the batch has no such pair or only one person.
    """
    with torch.autocast(embeddings_BD.device.type, enabled=False):
        inner = embeddings_BD.float() @ embeddings_BD.float().T
    distance = (2 - 2 * inner).clamp(min=0)
    same = people[:, None] == people[None]
    anchor, positive = (same & ~torch.eye(len(people), dtype=torch.bool, device=same.device)).nonzero(as_tuple=True)
    to_positive, others = distance[anchor, positive], distance[anchor]  # (P,), (P, B)
    negatives = ~same[anchor]
    farther = negatives & (others > to_positive[:, None])
    nearest = others.masked_fill(~farther, torch.inf).amin(dim=1)
    farthest = others.masked_fill(~negatives, -torch.inf).amax(dim=1)
    to_negative = torch.where(farther.any(dim=1), nearest, farthest)
    hinge = (to_positive - to_negative + margin).clamp(min=0)
    usable = negatives.any(dim=1)
    return hinge.masked_fill(~usable, 0).sum() / usable.sum().clamp(min=1)


class MarginHead(nn.Module):
    """Softmax over people by the angle to a learned centre of each, with a margin.

    ArcFace (Deng et al. 2019) adds the margin to the right person's angle, CosFace (Wang et al. 2018) subtracts it
    from the cosine; both then multiply by `scale`.
    """

    def __init__(self, dim: int, people: int, kind: Literal["arcface", "cosface"], margin: float, scale: float) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(people, dim))
        self.kind, self.margin, self.scale = kind, margin, scale

    def forward(self, embeddings_BD: Tensor, people: Tensor) -> Tensor:
        """The mean loss of a batch of unit vectors."""
        with torch.autocast(embeddings_BD.device.type, enabled=False):
            cosine = F.linear(embeddings_BD.float(), F.normalize(self.centres.float(), dim=1))
        right = cosine.gather(1, people[:, None])
        if self.kind == "cosface":
            harder = right - self.margin
        else:
            angle = right.clamp(-1 + 1e-6, 1 - 1e-6).acos()
            # beyond pi the cosine would rise again; a line keeps falling
            turned = (angle + self.margin).cos()
            harder = turned.where(angle + self.margin < math.pi, right - math.sin(self.margin) * self.margin)
        return F.cross_entropy(self.scale * cosine.scatter(1, people[:, None], harder), people)
