"""A position from a network's outputs."""

from typing import Any

import numpy as np
from PIL import Image

from tasks.engine.results import Outputs, Result, Size
from tasks.geo import maps
from tasks.geo.gazetteer import nearest_place


def position(outputs: Outputs, spec: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Latitude and longitude in degrees, the probability of being within 200 km, and the most probable cells."""
    x, y, z = outputs["directions"].astype(float)
    latitude, longitude = np.degrees([np.arctan2(z, np.hypot(x, y)), np.arctan2(y, x)]).tolist()
    cells, confidence = [], 0.0
    for i, p in zip(outputs["cells"], outputs["probabilities"], strict=True):
        where = spec["cells"]["positions"][i]
        phi, theta = np.radians(where)
        cosine = np.cos(phi) * (np.cos(theta) * x + np.sin(theta) * y) + np.sin(phi) * z
        confidence += float(p) * bool(6371 * np.arccos(np.clip(cosine, -1, 1)) <= 200)
        facts = {"token": spec["cells"]["tokens"][i], "latitude": round(where[0], 4), "longitude": round(where[1], 4)}
        cells.append({**facts, "probability": round(float(p), 4)})
    found = {"latitude": round(latitude, 5), "longitude": round(longitude, 5)}
    return {**found, "confidence": round(confidence, 4), "cells": cells}


class PositionResult(Result):
    """The position at which a photo was taken."""

    to_plain = staticmethod(position)
    hub_task = "image-classification"
    classes_are_places = True
    responsible_use = (
        "Where a photo was taken can reveal where people live: use it only on photos that you may locate, and do not "
        "publish its results for other people's photos."
    )

    @classmethod
    def from_outputs(cls, outputs: Outputs, spec: dict[str, Any], size: Size) -> dict[str, Any]:
        found = position(outputs, spec, size)
        return {**place(found["latitude"], found["longitude"]), **found}

    @property
    def latitude(self) -> float:
        """In degrees, north positive."""
        return float(self.plain["latitude"])

    @property
    def longitude(self) -> float:
        """In degrees, east positive."""
        return float(self.plain["longitude"])

    @property
    def place(self) -> str | None:
        """The nearest known city and its distance; None without the extra `earth`."""
        found: str | None = self.plain["place"]
        return found

    @property
    def confidence(self) -> float:
        """The probability, 0 to 1, that the photo was taken within 200 km."""
        return float(self.plain["confidence"])

    @property
    def cells(self) -> list[dict[str, Any]]:
        """The most probable cells, best first: `token` (S2), `latitude`, `longitude` and `probability`."""
        found: list[dict[str, Any]] = self.plain["cells"]
        return found

    def annotate(self, image: Image.Image) -> Image.Image:
        return maps.with_map(image, self.plain)

    def describe(self) -> str:
        return f"{in_words(self.plain)}; {self.confidence:.0%} within 200 km"


def place(latitude: float, longitude: float) -> dict[str, Any]:
    """A position in degrees as it is written to files, with the nearest known place."""
    near = nearest_place(latitude, longitude)
    return {"latitude": round(latitude, 5), "longitude": round(longitude, 5), "place": str(near) if near else None}


def in_words(place: dict[str, Any]) -> str:
    """A position and the nearest known place on one line."""
    near = f", {place['place']}" if place["place"] else ""
    return f"{place['latitude']:.3f}, {place['longitude']:.3f}{near}"
