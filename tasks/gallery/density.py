"""The densest point of weighted candidate positions: how neighbours and cells become one answer."""

import numpy as np

from data.geo.s2 import Floats
from data.geo.sphere import chord_to_km


def densest(directions: Floats, weights: Floats, sigma_km: float, steps: int = 3) -> Floats:
    """The mode (B, 3) of a kernel density over weighted directions (B, K, 3), weights (B, K).

    The kernel is a Gaussian of the great-circle distance ([L]kNN, Vo et al. 2017, section 3.3: over the
    coordinates of the k nearest neighbours). From the best candidate, mean shift climbs to the mode.
    """
    best = np.argmax(kernel(directions, directions, sigma_km) @ weights[..., None], axis=1)  # (B, 1)
    mode = np.take_along_axis(directions, best[..., None], axis=1)  # (B, 1, 3)
    for _ in range(steps):
        pull = kernel(mode, directions, sigma_km) * weights[:, None]
        mean = pull @ directions
        mode = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    return np.asarray(mode[:, 0])


def kernel(one: Floats, other: Floats, sigma_km: float) -> Floats:
    """exp(-d^2 / 2 sigma^2) of the distances between directions (B, I, 3) and (B, J, 3): (B, I, J)."""
    chord = np.sqrt(np.clip(2 - 2 * one @ other.swapaxes(1, 2), 0, 4))
    return np.exp(-0.5 * (chord_to_km(chord) / sigma_km) ** 2)


def neighbour_weights(similarities: Floats, sharpness: float) -> Floats:
    """Weights (B, K), of sum 1, of neighbours with these inner products (B, K), the largest first."""
    weights = np.exp(sharpness * (similarities - similarities[:, :1]))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
