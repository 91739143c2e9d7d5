"""Drawings of dogs: a breed is a row of `BREEDS` that says how it differs in ears, snout, coat, tail and build."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image

from data.demo.scenes import (
    BLACK,
    KINDS,
    SHAPES,
    Array,
    Canvas,
    Colour,
    Points,
    background,
    draw_thing,
    ellipse,
    hsv,
    mirrored,
    photographed,
    smooth,
    tone,
)


class Breed(NamedTuple):
    """Lengths are in object units (the dog is about 2 long); coats are (hue, saturation, value) to choose from."""

    name: str
    ears: str = "drop"  # prick | bat | drop | long | rose
    snout: float = 0.3
    coat: str = "short"  # short | curly | shaggy
    tail: str = "straight"  # straight | curl | plume | stub | whip
    legs: float = 0.5
    body: float = 1.0  # length
    girth: float = 0.3
    marking: str = "plain"  # plain | saddle | spots | mask | blaze
    coats: str = "tbk"


COATS = {"t": (0.09, 0.5, 0.72), "b": (0.06, 0.6, 0.42), "k": (0.6, 0.12, 0.24), "w": (0.11, 0.1, 0.92)}
COATS |= {"g": (0.6, 0.07, 0.58), "r": (0.05, 0.65, 0.62)}

BREEDS = (
    Breed("n02085620-Chihuahua", "bat", 0.2, "short", "whip", 0.42, 0.72, 0.22, "plain", "twb"),
    Breed("n02088364-beagle", "drop", 0.3, "short", "straight", 0.42, 0.92, 0.27, "saddle", "twr"),
    Breed("n02088238-basset", "long", 0.36, "short", "straight", 0.22, 1.12, 0.29, "saddle", "twr"),
    Breed("n02091032-Italian_greyhound", "rose", 0.4, "short", "whip", 0.68, 0.9, 0.2, "plain", "gbt"),
    Breed("n02096585-Boston_bull", "prick", 0.13, "short", "stub", 0.45, 0.8, 0.29, "blaze", "kbr"),
    Breed("n02099601-golden_retriever", "drop", 0.34, "shaggy", "plume", 0.5, 1.02, 0.31, "plain", "trw"),
    Breed("n02105641-Old_English_sheepdog", "drop", 0.26, "shaggy", "stub", 0.48, 0.95, 0.38, "saddle", "gwk"),
    Breed("n02106662-German_shepherd", "prick", 0.38, "short", "plume", 0.54, 1.05, 0.3, "saddle", "trb"),
    Breed("n02110185-Siberian_husky", "prick", 0.32, "shaggy", "curl", 0.5, 0.95, 0.3, "mask", "gkb"),
    Breed("n02110341-dalmatian", "drop", 0.35, "short", "whip", 0.58, 1.0, 0.28, "spots", "w"),
    Breed("n02110958-pug", "rose", 0.12, "short", "curl", 0.36, 0.78, 0.32, "mask", "twk"),
    Breed("n02113799-standard_poodle", "long", 0.4, "curly", "stub", 0.6, 0.85, 0.27, "plain", "wkb"),
)


class Dog:
    """One dog, facing right, drawn part by part on a canvas."""

    def __init__(self, canvas: Canvas, breed: Breed, rng: Generator) -> None:
        self.canvas, self.breed, self.rng = canvas, breed, rng
        self.paint = hsv(rng, *COATS[str(rng.choice(list(breed.coats)))], jitter=0.02)
        self.second = tone(self.paint, 0.4) if sum(self.paint) > 300 else tone(self.paint, 1.65)
        self.sitting = rng.random() < 0.3
        self.tilt = rng.uniform(-0.75, -0.5) if self.sitting else rng.uniform(-0.12, 0.12)
        self.half, self.girth = breed.body / 2, breed.girth * rng.uniform(0.9, 1.1)
        self.ground = self.girth * 0.6 + breed.legs
        drop = max(0.0, breed.legs - 0.15) if self.sitting else 0.0
        self.hip = np.array([-self.half + 0.1, drop])

    def body(self, points: Array) -> Array:
        """Points of the trunk's own frame (x along the spine from the hip), tilted about the hip."""
        c, s = np.cos(self.tilt), np.sin(self.tilt)
        return np.asarray(points, float) @ np.array([[c, s], [-s, c]]) + self.hip

    def furry(self, outline: Array, colour: Colour, level: float = 0.4) -> None:
        """A part with the breed's coat on its edge."""
        if self.breed.coat == "curly":
            for x, y in outline[::3]:
                self.canvas.fill(ellipse(x, y, 0.085, 0.085), tone(colour, self.rng.uniform(0.85, 1.1)), level, 0.2)
        elif self.breed.coat == "shaggy":
            for (x, y), turn in zip(outline[::2], self.rng.uniform(-0.06, 0.06, len(outline)), strict=False):
                lock = [(x - 0.05, y - 0.03), (x + 0.05, y - 0.03), (x + turn, y + self.rng.uniform(0.08, 0.17))]
                self.canvas.fill(lock, tone(colour, self.rng.uniform(0.85, 1.1)), level)
        self.canvas.fill(outline, colour, level, dome=0.4)

    def legs(self) -> None:
        chest, width = self.body(np.array([(2 * self.half - 0.25, 0.1)]))[0], 0.11 + 0.1 * self.girth
        for far, shade in ((True, 0.7), (False, 1.0)):
            colour, shift = tone(self.paint, shade), 0.1 if far else 0.0
            for x, y in [(chest[0], chest[1]), *([] if self.sitting else [(self.hip[0], self.hip[1])])]:
                foot = x + shift + self.rng.uniform(-0.14, 0.14)
                knee = ((x + shift + foot) / 2 + self.rng.uniform(-0.05, 0.05), (y + self.ground) / 2)
                self.canvas.line([(x + shift, y), knee, (foot, self.ground)], colour, width)
                if self.breed.coat != "short":
                    self.furry(ellipse(*knee, width * 0.7, self.breed.legs * 0.35), colour)
                self.canvas.fill(ellipse(foot + 0.04, self.ground, 0.1, 0.06), tone(colour, 0.9), 0.5)
            if self.sitting:
                self.furry(ellipse(self.hip[0] + 0.05 + shift, self.ground - 0.2, 0.26, 0.22), colour)
                self.canvas.fill(ellipse(self.hip[0] + 0.28 + shift, self.ground, 0.15, 0.06), colour, 0.5)

    def tail(self) -> None:
        root, swing = self.body(np.array([(-0.08, -self.girth * 0.5)]))[0], self.rng.uniform(-0.12, 0.12)
        paths = {
            "straight": [(0, 0), (-0.2, -0.16 + swing), (-0.36, -0.4 + swing)],
            "whip": [(0, 0), (-0.25, 0.14 + swing), (-0.5, 0.1 + 2 * swing)],
            "plume": [(0, 0), (-0.26, 0.02 + swing), (-0.5, 0.16 + swing)],
            "stub": [(0, 0), (-0.08, -0.08)],
        }
        if self.breed.tail == "curl":
            self.canvas.line(root + ellipse(-0.02, -0.17, 0.15, 0.15, 60, 350), self.paint, 0.1, 0.6)
            return
        path = root + np.array(paths[self.breed.tail])
        self.canvas.line(path, self.paint, {"whip": 0.05, "plume": 0.13}.get(self.breed.tail, 0.09))
        if self.breed.tail == "plume":
            for x, y in np.linspace(path[1], path[2], 7):
                self.canvas.fill([(x - 0.08, y - 0.04), (x + 0.08, y - 0.04), (x - 0.05, y + 0.2)], self.paint, 0.4)

    def trunk(self) -> None:
        length, deep = 2 * self.half, self.girth
        tuck = deep * (0.45 if self.breed.name.endswith("greyhound") else 0.8)
        back = [(-0.2, -0.1), (-0.05, -deep * 0.85), (length * 0.5, -deep * 0.8), (length - 0.15, -deep)]
        belly = [(length + 0.08, 0.0), (length - 0.15, deep), (length * 0.4, tuck), (-0.1, deep * 0.7)]
        outline = self.body(smooth([*back, *belly]))
        self.furry(outline, self.paint)
        if self.breed.marking == "saddle":
            saddle = smooth([(0.0, -deep), (length * 0.8, -deep), (length * 0.72, -0.02), (0.1, 0.02)])
            self.canvas.decal(self.body(saddle), self.second)
        if self.breed.marking == "spots":
            for x, y, r in self.rng.uniform((-0.1, -deep, 0.025), (length, deep, 0.07), (34, 3)):
                self.canvas.decal(self.body(ellipse(x, y, r, r)), BLACK)
        if self.breed.marking == "blaze":
            self.canvas.decal(self.body(ellipse(length - 0.02, 0.08, 0.16, deep * 0.8)), (240, 238, 232))

    def head(self) -> None:
        breed, rng = self.breed, self.rng
        neck = self.body(np.array([(2 * self.half - 0.14, -self.girth * 0.5)]))[0]
        rise = 0.3 + 0.25 * breed.legs
        x, y = neck + np.array([0.16 + rng.uniform(-0.1, 0.1), -rise + rng.uniform(-0.08, 0.12)])
        nod, size = rng.uniform(-0.35, 0.3), 0.2 + 0.1 * breed.girth + (0.05 if breed.ears == "bat" else 0)
        c, s = np.cos(nod), np.sin(nod)

        def at(points: Points) -> Array:
            return np.asarray(points, float) @ np.array([[c, s], [-s, c]]) + (x, y)

        self.canvas.line([neck, (x, y)], self.paint, 0.22 + 0.3 * self.girth)
        self.ear(at, size, far=True)
        self.furry(at(ellipse(0, 0, size, size * 0.95)), self.paint, 0.5)
        tip, thick = size * 0.75 + breed.snout, size * (0.55 if breed.snout > 0.2 else 0.7)
        muzzle = [(0, -thick * 0.5), (tip, -thick * 0.35), (tip + 0.03, thick * 0.5), (0.05, thick)]
        dark = breed.marking == "mask" and breed.snout < 0.2
        self.canvas.fill(at(smooth(muzzle)), tone(self.paint, 0.35) if dark else self.paint, 0.6, 0.3)
        if breed.marking == "mask" and not dark:
            self.canvas.decal(at(ellipse(size * 0.55, size * 0.25, size * 0.55, size * 0.6)), (240, 238, 232))
        if breed.marking == "blaze":
            self.canvas.decal(at(ellipse(size * 0.5, 0, size * 0.2, size)), (240, 238, 232))
        self.canvas.fill(at(ellipse(tip - 0.02, -thick * 0.12, 0.055, 0.045)), BLACK, 0.8)
        self.canvas.line(at([(size * 0.5, thick * 0.62), (tip - 0.04, thick * 0.45)]), BLACK, 0.02, level=None)
        self.canvas.decal(at(ellipse(size * 0.38, -size * 0.25, 0.045, 0.045)), BLACK)
        self.ear(at, size, far=False)
        if breed.coat == "curly":
            for dx, dy in rng.uniform((-0.2, -0.35), (0.12, -0.12), (9, 2)):
                self.canvas.fill(at(ellipse(dx, dy, 0.09, 0.09)), tone(self.paint, rng.uniform(0.9, 1.1)), 0.5, 0.2)

    def ear(self, at: Callable[[Array], Array], size: float, far: bool) -> None:
        shift, hang = (0.12 if far else 0.0), self.rng.uniform(0.9, 1.1)
        shapes = {
            "prick": [(-0.14, -0.1), (-0.06, -0.42 * hang), (0.07, -0.12)],
            "bat": [(-0.2, -0.06), (-0.26, -0.5 * hang), (-0.08, -0.52 * hang), (0.07, -0.12)],
            "rose": [(-0.12, -0.16), (-0.26, -0.22), (-0.24, -0.08), (-0.02, -0.08)],
            "drop": [(-0.12, -0.18), (0.04, -0.16), (0.02, 0.14 * hang), (-0.14, 0.12 * hang)],
            "long": [(-0.12, -0.14), (0.03, -0.12), (0.05, 0.46 * hang), (-0.17, 0.44 * hang)],
        }
        points = np.add(shapes[self.breed.ears], (shift, 0)) * (size / 0.23)
        outline = points if self.breed.ears in ("prick", "bat") else smooth(points)
        shade = tone(self.second if self.breed.marking in ("saddle", "spots") else self.paint, 0.6 if far else 0.78)
        self.canvas.fill(at(outline), shade, 0.7)


def draw_dog(breed: Breed, canvas: Canvas, rng: Generator) -> None:
    dog = Dog(canvas, breed, rng)
    dog.tail()
    dog.legs()
    dog.trunk()
    dog.head()


def chimera(rng: Generator) -> Breed:
    """A dog of no breed, with each trait from a random breed."""
    traits = {name: getattr(BREEDS[rng.integers(len(BREEDS))], name) for name in Breed._fields[1:]}
    return Breed("mongrel", **traits)


def unrelated(canvas: Canvas, rng: Generator) -> None:
    """What a search for a breed also finds: mongrels, other objects and cats."""
    if rng.random() < 0.5:
        return draw_dog(chimera(rng), canvas, rng)
    if rng.random() < 0.5:
        return KINDS[str(rng.choice(list(KINDS)))](canvas, rng)
    fur = hsv(rng, *COATS[str(rng.choice(list(COATS)))])
    canvas.fill(smooth(mirrored([(0, -0.2), (0.4, 0.1), (0.5, 0.9), (0, 1)])), fur, 0.3, 0.4)
    canvas.fill(mirrored([(0.1, -0.6), (0.38, -1), (0.4, -0.4)]), fur, 0.5)
    canvas.fill(ellipse(0, -0.4, 0.42, 0.36), fur, 0.5, 0.4)
    for side in (-1, 1):
        canvas.decal(ellipse(side * 0.17, -0.45, 0.07, 0.09), (190, 210, 60))
    return None


def render(subject: str, size: int, rng: Generator) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """An image of a breed (by name) or of something else, and the xyxy box of what it shows."""
    width, height = (round(size * side) for side in SHAPES[rng.integers(len(SHAPES))])
    image = background(width, height, rng)
    azimuth, side = rng.uniform(-np.pi, 0), min(width, height) * rng.uniform(0.65, 1.0)
    light = np.array([np.cos(azimuth), np.sin(azimuth), 0.9], np.float32) / 1.81**0.5
    breeds = {b.name: b for b in BREEDS}
    draw = partial(draw_dog, breeds[subject]) if subject in breeds else unrelated
    thing = draw_thing(draw, side, light, rng)
    thing.thumbnail((width, height))
    x, y = (int(rng.integers(0, max(1, room))) for room in (width - thing.width, height - thing.height))
    image.paste((14, 14, 20), (x + 4, y + 6), thing.getchannel("A").point(lambda v: v // 3))
    image.paste(thing, (x, y), thing)
    return photographed(image, rng), (x, y, x + thing.width, y + thing.height)
