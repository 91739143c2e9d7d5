"""Where photos were taken: by classification, by retrieval from a gallery, and by both together."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from data.geo.s2 import Floats
from data.geo.sphere import positions_of, unit_vectors
from tasks.gallery.density import densest, neighbour_weights
from tasks.gallery.gallery import Gallery, Neighbours
from tasks.geo.model import GeoLocator, Located

CELLS = 20  # of the classifier that fusion uses


class Locations(NamedTuple):
    """Positions (B, 2) by each method, with the cells and neighbours behind them."""

    positions: dict[str, Floats]
    cells: Located
    neighbours: Neighbours


@dataclass(frozen=True)
class Locator:
    """A model with a gallery.

    Retrieval is [L]kNN: the mode of a density of scale `sigma_km` over the `k` nearest photos' positions, weighted
    by exp(sharpness * similarity). Fusion adds the classifier's CELLS most probable cells to that density, with the
    share `fusion` of the weight. If an approximate index finds no neighbour of a photo, the classifier's answer takes
    their place.
    """

    model: GeoLocator
    gallery: Gallery
    k: int
    sigma_km: float
    sharpness: float
    fusion: float

    def __call__(self, images: Tensor) -> Locations:
        """Where uint8 images (B, 3, R, R) were taken."""
        features = self.model.embed(self.model.preprocess(images))
        logits = self.model.head(features)
        neighbours = self.gallery.search(F.normalize(features.float(), dim=1).cpu().numpy(), self.k)
        return self.combine(logits, neighbours)

    def combine(self, logits: Tensor, neighbours: Neighbours) -> Locations:
        located = self.model.postprocess(logits)
        directions = located.directions.cpu().double().numpy()
        near = unit_vectors(neighbours.positions)
        none = np.isneginf(neighbours.similarities[:, 0])
        near[none] = directions[none, None]
        weights = neighbour_weights(np.where(none[:, None], 0.0, neighbours.similarities), self.sharpness)
        probabilities, cells = self.model.log_probabilities(logits).exp().topk(min(CELLS, self.model.sizes[-1]), 1)
        means = self.model.fine_directions[cells].cpu().double().numpy()
        shares = probabilities.cpu().double().numpy()
        together = np.concatenate([near, means], axis=1)
        share = np.concatenate([(1 - self.fusion) * weights, self.fusion * shares], axis=1)
        return Locations(
            {
                "classification": positions_of(directions),
                "retrieval": positions_of(densest(near, weights, self.sigma_km)),
                "fusion": positions_of(densest(together, share, self.sigma_km)),
            },
            located,
            neighbours,
        )
