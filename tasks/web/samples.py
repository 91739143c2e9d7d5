"""The sample images of a page."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image

from backbones.errors import UserError
from data.files import find_images
from data.image_file import BadImage
from data.inputs import read_input

SEED = 2024  # so that drawn samples are not in any split
COUNT = 6
SIDE = 640  # pixels of the longer side, at most


def read_samples(wanted: str) -> list[bytes]:
    """Up to COUNT of the images that a file, a folder or a glob names, as JPEG files, upright and of screen size.

    Raises:
        UserError: there are none, or one cannot be read.
    """
    images = find_images(wanted, "samples")
    return [read(file) for file in images[:: -(-len(images) // COUNT)]]


def read(path: Path) -> bytes:
    try:
        pixels, _ = read_input(path, SIDE)
    except BadImage as error:
        raise UserError(f"samples: {path} cannot be read: {error.args[1]}") from error
    return jpeg(Image.fromarray(pixels))


def jpeg(image: Image.Image) -> bytes:
    """A JPEG file without metadata, which might reveal the place or the camera."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def drawn_samples(draw: Callable[[int, Generator], Image.Image], count: int) -> list[bytes]:
    """Images like those of a demo's data set; `draw` is one of `DRAWN`."""
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
