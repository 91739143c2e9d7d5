"""Maps of the world in pixels: equirectangular, north up, longitude -180 on the left."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from data.demo.earth import blue_marble
from data.geo.cells import Partition
from data.geo.s2 import Floats, cell_corners
from data.geo.sphere import chord_to_km, unit_vectors

Colour = tuple[int, int, int]
PREDICTION, TRUTH, OTHER = (255, 60, 60), (80, 255, 80), (255, 215, 60)
WIDTH, LEAST_HEIGHT, MOST_HEIGHT = 1440, 256, 2048  # pixels


@lru_cache(4)
def _base(width: int) -> Image.Image:
    """The Blue Marble, pale, or a single colour if it is not installed; with lines every 30 degrees."""
    size = width, width // 2
    if source := blue_marble():
        with Image.open(source) as marble:
            marble.draft("RGB", size)
            image = Image.blend(marble.convert("RGB").resize(size), Image.new("RGB", size, (120, 130, 140)), 0.3)
    else:
        image = Image.new("RGB", size, (40, 60, 90))
    draw = ImageDraw.Draw(image, "RGBA")
    for degrees in range(0, 360, 30):
        at = degrees * width / 360
        draw.line([(at, 0), (at, size[1])], (255, 255, 255, 40))
        draw.line([(0, at), (width, at)], (255, 255, 255, 40))
    return image


def world(width: int) -> Image.Image:
    """A copy of the map, to draw on."""
    return _base(width).copy()


def pixels(positions: ArrayLike, width: int) -> Floats:
    """Map pixels x, y (N, 2) of positions (N, 2) in degrees."""
    latitude, longitude = np.asarray(positions, np.float64).reshape(-1, 2).T
    return np.stack([(longitude + 180) / 360 * width, (90 - latitude) / 180 * (width / 2)], axis=1)


def dots(image: Image.Image, positions: ArrayLike, colours: Sequence[Colour] | Colour, radius: float) -> None:
    """Draws a disc at each position (N, 2)."""
    draw = ImageDraw.Draw(image)
    where = pixels(positions, image.width)
    each = cast(Sequence[Colour], [colours] * len(where) if isinstance(colours[0], int) else colours)
    for (x, y), colour in zip(where.tolist(), each, strict=True):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=(0, 0, 0))


def scale(values: ArrayLike) -> list[Colour]:
    """Colours from blue (0) by green and yellow to red (1)."""
    stops = np.array([(60, 90, 255), (60, 220, 160), (255, 225, 60), (255, 50, 40)], float)
    at = np.clip(np.asarray(values, float), 0, 1) * (len(stops) - 1)
    low = np.minimum(at.astype(int), len(stops) - 2)
    mixed = stops[low] + (stops[low + 1] - stops[low]) * (at - low)[:, None]
    return [(int(r), int(g), int(b)) for r, g, b in mixed]


def heat(image: Image.Image, positions: ArrayLike, weights: ArrayLike, sigma_km: float) -> Image.Image:
    """The map with the density of weighted positions (N, 2), each a Gaussian of `sigma_km`, on top."""
    width, step = image.width, 4
    rows, columns = width // 2 // step, width // step
    latitude = 90 - (np.arange(rows) + 0.5) * 180 / rows
    longitude = (np.arange(columns) + 0.5) * 360 / columns - 180
    grid = unit_vectors(np.stack(np.meshgrid(latitude, longitude, indexing="ij"), axis=-1))
    density = np.zeros((rows, columns))
    for direction, weight in zip(unit_vectors(positions), np.asarray(weights), strict=True):
        distance = chord_to_km(np.sqrt(np.clip(2 - 2 * grid @ direction, 0, 4)))
        density += weight * np.exp(-0.5 * (distance / sigma_km) ** 2)
    share = density / max(density.max(), 1e-12)
    alpha = Image.fromarray((200 * np.sqrt(share)).astype(np.uint8)).resize(image.size, Image.Resampling.BILINEAR)
    return Image.composite(Image.new("RGB", image.size, (255, 120, 0)), image, alpha)


def cell_map(partition: Partition) -> Image.Image:
    """The borders of a partition's cells, coloured by the logarithm of their number of photos."""
    image = world(WIDTH)
    draw = ImageDraw.Draw(image, "RGBA")
    counts = np.log(partition.counts)
    for corners, colour in zip(cell_corners(partition.ids), scale(counts / max(counts.max(), 1e-9)), strict=True):
        outline = pixels(corners, WIDTH)
        if np.ptp(outline[:, 0]) < WIDTH / 2:  # those across the antimeridian or a pole would be drawn across the map
            draw.polygon([(x, y) for x, y in outline.tolist()], fill=(*colour, 90), outline=(*colour, 255))
    return image


def error_map(truth: Floats, errors_km: Floats) -> Image.Image:
    """Photos at their true positions, blue for an error of 25 km or less, red for 2500 or more."""
    image = world(WIDTH)
    order = np.argsort(errors_km)
    share = np.log(np.clip(errors_km[order], 25, 2500) / 25) / np.log(100)
    dots(image, truth[order], scale(share), radius=4)
    return image


def with_map(photo: Image.Image, prediction: dict[str, Any]) -> Image.Image:
    """A photo above a map, on a square page of 2h x 2h pixels, where h is the photo's height, at least LEAST_HEIGHT and
    at most MOST_HEIGHT: a page of a phone's photo of 50 megapixels would take gigabytes.
    """
    height = min(max(photo.height, LEAST_HEIGHT), MOST_HEIGHT)
    width = 2 * height
    shrink = min(height / photo.height, width / photo.width)
    sides = (max(1, round(photo.width * shrink)), max(1, round(photo.height * shrink)))
    fitted = photo.resize(sides, Image.Resampling.BILINEAR)
    image = world(width)
    cells = prediction.get("cells", [])
    if cells:
        means = [(cell["latitude"], cell["longitude"]) for cell in cells]
        image = heat(image, means, [cell["probability"] for cell in cells], sigma_km=400)
    dots(image, [(prediction["latitude"], prediction["longitude"])], PREDICTION if cells else TRUTH, radius=width / 100)
    page = Image.new("RGB", (width, width), (255, 255, 255))
    page.paste(fitted, ((width - fitted.width) // 2, (height - fitted.height) // 2))
    page.paste(image, (0, height))
    return page
