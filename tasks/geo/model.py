"""The network that locates a photo: a backbone, and a head for each partition of the Earth."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone
from data.geo.cells import Hierarchy
from data.geo.s2 import Floats, Ints, to_tokens
from data.geo.sphere import EARTH_KM, unit_vectors
from tasks.engine.model import ExportSpec, PooledNet


@dataclass(frozen=True, eq=False)
class CellTable:
    """The cells of P partitions, coarse to fine, with all that a model needs of them.

    `sizes` are the partitions' numbers of cells, `positions` (C, 2) the photo-mean positions of all of them,
    one partition after the other, `parents` (P - 1, N) the cell of each coarser partition around each of the
    N finest cells, -1 if there is none.
    """

    sizes: list[int]
    tokens: list[str]  # of the finest
    positions: Floats
    parents: Ints

    @classmethod
    def from_labels(cls, labels: Sequence[str]) -> "CellTable":
        """From `Hierarchy.labels`. Labels of another form are one partition without positions."""
        count = len(labels)
        if any(len(label.replace("/", " ").split()) != 4 for label in labels):
            return cls([count], list(labels), np.zeros((count, 2)), np.empty((0, count), np.int64))
        hierarchy = Hierarchy.from_labels(labels)
        return cls(
            sizes=[len(partition) for partition in hierarchy.partitions],
            tokens=to_tokens(hierarchy.partitions[-1].ids),
            positions=np.concatenate([np.stack([p.latitude, p.longitude], axis=1) for p in hierarchy.partitions]),
            parents=hierarchy.parents,
        )


class Located(NamedTuple):
    """The most probable cells (B, K) of each photo, best first, with their probabilities; its position (B, 3)."""

    cells: Tensor
    probabilities: Tensor
    directions: Tensor  # unit vectors


class GeoLocator(PooledNet):
    """Images (B, 3, H, W) to logits (B, C) of the cells of all partitions, one after the other.

    A fine cell's probability is its own times that of the coarser cell around it in each other partition
    (Müller-Budack et al. 2018, ISNs), normalised over the fine cells.
    """

    output_kind = "position"
    export_spec = ExportSpec(
        {
            "cells": "the most probable cells, best first: indices into cells.tokens",
            "probabilities": "of these cells",
            "directions": "the position as a unit vector: x to (0, 0), y to (0, 90 east), z to the north pole",
        },
        result=Located,
    )

    def __init__(
        self,
        backbone: Backbone,
        table: CellTable,
        *,
        dropout: float = 0.0,
        soft_km: float = 0.0,
        decode: Literal["best", "mean"] = "mean",
        top_cells: int = 5,
    ) -> None:
        super().__init__(backbone, sum(table.sizes), dropout)
        self.sizes, self.soft_km, self.decode = table.sizes, soft_km, decode
        self.top_cells = min(top_cells, table.sizes[-1])
        # rebuilt from the labels, so not kept in checkpoints
        self.register_buffer("directions", torch.from_numpy(unit_vectors(table.positions)).float(), False)
        self.register_buffer("parents", torch.from_numpy(table.parents), False)
        self.directions: Tensor
        self.parents: Tensor

    def class_layers(self) -> list[nn.Module]:
        return [self.head]

    def image_vectors(self, images: Tensor) -> Tensor:
        """Features (B, D) of length 1, whose inner products measure the similarity of normalised images."""
        return F.normalize(self.embed(images).float(), dim=1)

    def loss(self, logits: Tensor, cells: Tensor, positions: Tensor) -> Tensor:
        """Cross-entropy averaged over the photos and summed over the partitions.

        `cells` (B, P) index each partition, -1 if the photo is in no cell; positions (B, 2) are in degrees.
        With `soft_km`, labels are spread over cells by distance as in PIGEON (Haas et al. 2023, equation 1):
        a cell weighs exp(-(its distance - the nearest cell's) / soft_km).
        """
        total = logits.new_zeros(())
        for part, directions, target in zip(
            self.parts(logits), self.directions.split(self.sizes), cells.unbind(1), strict=True
        ):
            if self.soft_km:
                distance = self._distance_km(positions, directions)
                soft = (-(distance - distance.amin(1, keepdim=True)) / self.soft_km).softmax(1)
                total = total + F.cross_entropy(part, soft)
            else:
                count = (target >= 0).sum().clamp(min=1)
                total = total + F.cross_entropy(part, target, ignore_index=-1, reduction="sum") / count
        return total

    def parts(self, logits: Tensor) -> list[Tensor]:
        """The logits of each partition. Sliced, because litert_torch cannot export a split into one part."""
        return [
            logits[:, end - size : end].float() for size, end in zip(self.sizes, accumulate(self.sizes), strict=True)
        ]

    @staticmethod
    def _distance_km(positions: Tensor, directions: Tensor) -> Tensor:
        """Great circles (B, N) from positions in degrees to unit vectors (N, 3)."""
        phi, theta = positions.deg2rad().unbind(1)  # in float32: Apple's GPUs have no float64
        own = torch.stack([phi.cos() * theta.cos(), phi.cos() * theta.sin(), phi.sin()], 1)
        # by the chord, because the arc cosine is imprecise at short distances
        chord = (own[:, None] - directions[None]).norm(dim=2)
        return 2 * EARTH_KM * (chord / 2).clamp(max=1).asin()

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Log probabilities (B, N) of the finest cells."""
        *coarse, fine = (part.log_softmax(1) for part in self.parts(logits))
        for part, parents in zip(coarse, self.parents, strict=True):
            # a partition without a cell around the fine one does not count
            fine = fine + torch.where(parents >= 0, part[:, parents.clamp(min=0)], 0.0)
        return fine.log_softmax(1)

    @property
    def fine_directions(self) -> Tensor:
        """Unit vectors (N, 3) of the finest cells' photo-mean positions."""
        return self.directions[-self.sizes[-1] :]

    def postprocess(self, logits: Tensor) -> Located:
        probabilities, cells = self.log_probabilities(logits).exp().topk(self.top_cells, dim=1)
        directions = self.fine_directions[cells]  # (B, K, 3)
        if self.decode == "best":
            return Located(cells, probabilities, directions[:, 0])
        mean = (probabilities[..., None] * directions).sum(1)
        return Located(cells, probabilities, F.normalize(mean, dim=1))
