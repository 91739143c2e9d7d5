"""Positions on the globe: (latitude, longitude) in degrees, distances in km on a sphere."""

import numpy as np
from numpy.typing import ArrayLike

from data.geo.s2 import Floats

EARTH_KM = 6371.0088  # mean radius (IUGG)


def unit_vectors(positions: ArrayLike) -> Floats:
    """Directions (..., 3) of positions (..., 2)."""
    phi, theta = np.moveaxis(np.radians(np.asarray(positions, np.float64)), -1, 0)
    return np.stack([np.cos(phi) * np.cos(theta), np.cos(phi) * np.sin(theta), np.sin(phi)], axis=-1)


def positions_of(vectors: ArrayLike) -> Floats:
    """Positions (..., 2) of directions (..., 3) of any length but 0."""
    x, y, z = np.moveaxis(np.asarray(vectors, np.float64), -1, 0)
    return np.degrees(np.stack([np.arctan2(z, np.hypot(x, y)), np.arctan2(y, x)], axis=-1))


def chord_to_km(chord: ArrayLike) -> Floats:
    """Great-circle distances for chords, the straight distances in radii of the sphere."""
    return np.asarray(2 * EARTH_KM * np.arcsin(np.clip(np.asarray(chord) / 2, 0, 1)), np.float64)


def great_circle_km(one: ArrayLike, other: ArrayLike) -> Floats:
    """Distances between positions (..., 2), with broadcasting."""
    return chord_to_km(np.linalg.norm(unit_vectors(one) - unit_vectors(other), axis=-1))
