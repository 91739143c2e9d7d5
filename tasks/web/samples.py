"""The images that a page carries, to be tried at once."""

import glob
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageOps

from backbones.errors import UserError

SEED = 2024  # drawn samples are of no split
COUNT = 6
SIDE = 640  # pixels of the longer side, at most


def read_samples(wanted: str) -> list[bytes]:
    """JPEG files of up to `COUNT` of the images that a file, a folder or a glob names, upright and of screen size.

    Raises:
        UserError: there are none, or one cannot be decoded.
    """
    path = Path(wanted)
    files = sorted(path.rglob("*")) if path.is_dir() else sorted(map(Path, glob.glob(wanted, recursive=True)))
    images = [file for file in files if file.suffix.lower() in Image.registered_extensions()]
    if not images:
        raise UserError(f"samples={wanted}: there is no image of that name; give a file, a folder or a quoted glob")
    return [read(file) for file in images[:: -(-len(images) // COUNT)]]


def read(path: Path) -> bytes:
    try:
        with Image.open(path) as image:
            return jpeg(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"samples: {path} cannot be decoded: {error}") from error


def jpeg(image: Image.Image) -> bytes:
    """As a file without metadata, so that no place or camera goes along."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def drawn_samples(draw: Callable[[int, Generator], Image.Image], count: int) -> list[bytes]:
    """Images like those of a drawn data set; `draw` is one of `DRAWN`."""
    return [jpeg(draw(i, np.random.default_rng([SEED, i]))) for i in range(count)]


def scene(_: int, rng: Generator) -> Image.Image:
    from data.demo.scenes import render_scene

    while True:
        image, things = render_scene(384, rng)
        if len(things) > 2:
            return image


def dog(number: int, rng: Generator) -> Image.Image:
    from data.demo.breeds import BREEDS, render

    return render(BREEDS[number * 5 % len(BREEDS)].name, 320, rng)[0]


def face(number: int, rng: Generator) -> Image.Image:
    """Two of each person."""
    from data.demo.portraits import Person, render

    return render(Person.random(np.random.default_rng([SEED, number // 2])), rng)[0]


def place(_: int, rng: Generator) -> Image.Image:
    from data.demo import earth

    source = str(earth.blue_marble() or "generated")
    latitude, longitude = earth.draw_position(source, 0, rng)
    km = float(np.exp(rng.uniform(*np.log(earth.VIEW_KM))))
    return earth.photographed(earth.view(earth.planet(source), latitude, longitude, 96, km, 0.0), rng)


# by the name of the data set's configuration
DRAWN: dict[str, Callable[[int, Generator], Image.Image]] = {
    "demo_scenes": scene,
    "demo_dogs": dog,
    "demo_faces": face,
    "demo_people": face,
    "demo_earth": place,
}
