"""Drawings of faces: a person is a vector of proportions and colours, a portrait has one pose, light and mood."""

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image

from data.demo.scenes import (
    SUPERSAMPLING,
    Array,
    Canvas,
    Colour,
    Points,
    background,
    ellipse,
    hsv,
    mirrored,
    photographed,
    smooth,
    tone,
)

ATTRIBUTES = (
    *("Bangs", "Beard", "Big_Nose", "Black_Hair", "Blond_Hair", "Brown_Hair", "Bushy_Eyebrows", "Eyeglasses"),
    *("Mouth_Slightly_Open", "Smiling", "Wearing_Earrings", "Wearing_Hat"),
)
SIZE = (89, 109)  # width and height in pixels, half of CelebA's aligned images
HAIR = ((0.6, 0.15, 0.1), (0.125, 0.55, 0.85), (0.07, 0.6, 0.38), (0.1, 0.05, 0.68), (0.04, 0.8, 0.55))
DARK = (28, 24, 26)


class Person(NamedTuple):
    """Lengths are in half heads; features that decide an attribute stay clear of its threshold."""

    width: float
    jaw: float
    skin: Colour
    eye_gap: float
    eye_height: float
    eye_size: float
    eye_tilt: float
    iris: Colour
    bushy: bool
    brow: float  # thickness
    brow_tilt: float
    brow_gap: float
    big_nose: bool
    nose_width: float
    nose_length: float
    mouth_height: float
    mouth_width: float
    lips: float
    lip_colour: Colour
    ear: float
    hair: int  # black, blond, brown, grey, red
    hair_colour: Colour
    hair_length: float
    hair_volume: float
    bangs: bool
    beard: bool
    beard_length: float
    mole: tuple[float, float] | None
    wears: tuple[float, float, float]  # probabilities of glasses, earrings, a hat

    @classmethod
    def random(cls, rng: Generator) -> "Person":
        bushy, big, hair = bool(rng.random() < 0.35), bool(rng.random() < 0.35), int(rng.choice(5, p=_HAIR_SHARES))
        value = rng.uniform(0.4, 0.92)
        skin = hsv(rng, rng.uniform(0.05, 0.085), 0.75 - 0.42 * value, value, 0.005)
        side = rng.choice([-1, 1])
        return cls(
            width=rng.uniform(0.64, 0.84),
            jaw=rng.uniform(0.3, 0.62),
            skin=skin,
            eye_gap=rng.uniform(0.27, 0.42),
            eye_height=rng.uniform(-0.16, 0.02),
            eye_size=rng.uniform(0.12, 0.18),
            eye_tilt=rng.uniform(-0.05, 0.05),
            iris=hsv(rng, rng.choice([0.07, 0.09, 0.3, 0.57]), 0.55, rng.uniform(0.25, 0.6)),
            bushy=bushy,
            brow=rng.uniform(0.13, 0.18) if bushy else rng.uniform(0.03, 0.055),
            brow_tilt=rng.uniform(-0.1, 0.1),
            brow_gap=rng.uniform(0.19, 0.28),
            big_nose=big,
            nose_width=rng.uniform(0.24, 0.31) if big else rng.uniform(0.08, 0.14),
            nose_length=rng.uniform(0.36, 0.44) if big else rng.uniform(0.28, 0.38),
            mouth_height=rng.uniform(0.52, 0.66),
            mouth_width=rng.uniform(0.26, 0.38),
            lips=rng.uniform(0.035, 0.08),
            lip_colour=hsv(rng, 0.99, rng.uniform(0.35, 0.7), rng.uniform(0.4, 0.8)),
            ear=rng.uniform(0.14, 0.24),
            hair=hair,
            hair_colour=hsv(rng, *HAIR[hair], jitter=0.01),
            hair_length=float(rng.choice([0.1, 0.5, 1.1])) + rng.uniform(-0.1, 0.15),
            hair_volume=rng.uniform(0.06, 0.26),
            bangs=bool(rng.random() < 0.35),
            beard=bool(rng.random() < 0.35),
            beard_length=rng.uniform(0.02, 0.22),
            mole=(side * rng.uniform(0.2, 0.45), rng.uniform(0.15, 0.5)) if rng.random() < 0.3 else None,
            wears=tuple(np.where(rng.random(3) < 0.35, 0.75, (0.08, 0.08, 0.1)).tolist()),
        )


_HAIR_SHARES = (0.27, 0.24, 0.27, 0.12, 0.1)


class Mood(NamedTuple):
    """What changes from image to image."""

    yaw: float  # radians
    pitch: float
    smiling: bool
    open: bool
    glasses: bool
    earrings: bool
    hat: bool

    @classmethod
    def random(cls, person: Person, rng: Generator) -> "Mood":
        glasses, earrings, hat = (bool(rng.random() < probability) for probability in person.wears)
        smiling, parted = bool(rng.random() < 0.5), bool(rng.random() < 0.4)
        return cls(rng.normal(0, 0.22), rng.normal(0, 0.11), smiling, parted, glasses, earrings, hat)


class Portrait:
    """One image of a person; features lie on the head, an ellipsoid that is turned by the mood's angles."""

    def __init__(self, canvas: Canvas, person: Person, mood: Mood, rng: Generator) -> None:
        self.canvas, self.person, self.mood, self.rng = canvas, person, mood, rng

    def at(self, points: Points, out: float = 0.0) -> Array:
        """Points (N, 2) of the frontal view after turning the head; `out` lifts them off its surface."""
        x, y = np.asarray(points, float).T
        z = 0.75 * np.sqrt(np.clip(1 - (x / self.person.width) ** 2 - y**2, 0, None)) + out
        yaw, pitch = self.mood.yaw, self.mood.pitch
        return np.stack([x * np.cos(yaw) + z * np.sin(yaw), y * np.cos(pitch) - z * np.sin(pitch)], axis=1)

    def body(self) -> None:
        shirt = hsv(self.rng, self.rng.random(), 0.5, 0.6)
        self.canvas.fill(smooth([(-0.34, 0.6), (0.34, 0.6), (0.36, 1.6), (-0.36, 1.6)]), tone(self.person.skin, 0.8))
        self.canvas.fill(smooth([(-1.3, 2.2), (-1.2, 1.2), (0, 1.25), (1.2, 1.2), (1.3, 2.2)]), shirt, 0.3, 0.3)

    def hair_behind(self) -> None:
        p = self.person
        wide, low = p.width + p.hair_volume, -0.1 + p.hair_length
        outline = [(-wide, -0.5), (-0.5, -1.05 - p.hair_volume), (0.5, -1.05 - p.hair_volume), (wide, -0.5)]
        self.canvas.fill(smooth([*outline, (wide, low), (-wide, low)]), tone(p.hair_colour, 0.75), 0.25)

    def ears(self) -> None:
        p = self.person
        for side in (-1, 1):
            x = side * p.width * 0.97 * np.cos(self.mood.yaw)
            y = 0.05 - 0.3 * np.sin(self.mood.pitch)
            self.canvas.fill(ellipse(x, y, p.ear * 0.5, p.ear), tone(p.skin, 0.85), 0.35)
            if self.mood.earrings:
                self.canvas.fill(ellipse(x, y + p.ear + 0.1, 0.1, 0.13), self.jewel, 0.8, 0.2)

    def head(self) -> None:
        p = self.person
        right = [(0, -1), (0.62 * p.width, -0.92), (p.width, -0.35), (p.width * 0.96, 0.25), (p.jaw + 0.08, 0.82)]
        outline = mirrored([*right, (p.jaw * 0.5, 1.04), (0, 1.06)])
        self.canvas.fill(smooth(self.at(outline)), p.skin, 0.45, 0.5)
        for side in (-1, 1):
            self.canvas.decal(self.at(ellipse(side * 0.4, 0.35, 0.14, 0.1)), blend(p.skin, (220, 90, 80), 0.16))
        if p.mole:
            self.canvas.decal(self.at(ellipse(*p.mole, 0.035, 0.035)), tone(p.skin, 0.35))

    def beard(self) -> None:
        p = self.person
        low = 1.06 + p.beard_length
        edge = [(-p.width * 0.9, 0.3), (-p.jaw - 0.06, 0.85), (-p.jaw * 0.5, low), (p.jaw * 0.5, low)]
        inner = [(p.jaw + 0.06, 0.85), (p.width * 0.9, 0.3), (0.36, 0.55), (0.15, 0.45), (-0.15, 0.45), (-0.36, 0.55)]
        self.canvas.fill(self.at(smooth([*edge, *inner]), 0.03), tone(p.hair_colour, 0.8), 0.75)

    def mouth(self) -> None:
        p, m = self.person, self.mood
        y, half, curve = p.mouth_height, p.mouth_width * (1.25 if m.smiling else 0.95), 0.17 if m.smiling else -0.02
        t = np.linspace(-1, 1, 9)
        gap = 0.15 if m.open else 0.0
        middle = y + curve * (0.6 - t**2)
        bow = 1 - t**2
        top = np.stack([t * half, middle - (p.lips + 0.35 * gap) * bow - 0.008], 1)
        bottom = np.stack([t * half, middle + (1.25 * p.lips + gap) * bow + 0.008], 1)
        self.canvas.decal(self.at(np.concatenate([top, bottom[::-1]])), p.lip_colour)
        if m.open:
            inner = [np.stack([t * half * 0.85, middle + s * gap * bow], 1) for s in (-0.4, 1)]
            self.canvas.decal(self.at(np.concatenate([inner[0], inner[1][::-1]])), (70, 20, 24))
            teeth = [np.stack([t * half * 0.7, middle + s * gap * bow], 1) for s in (-0.35, 0.25)]
            self.canvas.decal(self.at(np.concatenate([teeth[0], teeth[1][::-1]])), (238, 234, 226))
        else:
            self.canvas.line(self.at(np.stack([t * half, middle], 1)), tone(p.lip_colour, 0.5), 0.025, level=None)
        if m.smiling:  # folds beside the mouth
            for side in (-1, 1):
                fold = [(side * half * 1.25, y - 0.22), (side * half * 1.4, y - 0.08), (side * half * 1.3, y + 0.04)]
                self.canvas.line(self.at(fold), tone(p.skin, 0.72), 0.025, level=None)

    def nose(self) -> None:
        p = self.person
        top, tip = p.eye_height + 0.05, p.eye_height + 0.05 + p.nose_length
        bridge = [(-0.05, top), (0.05, top), (p.nose_width, tip), (0, tip + 0.07), (-p.nose_width, tip)]
        self.canvas.fill(self.at(smooth(bridge), 0.12), tone(p.skin, 0.95), 0.95)
        for side in (-1, 1):
            self.canvas.decal(self.at(ellipse(side * p.nose_width * 0.5, tip, 0.04, 0.025), 0.12), tone(p.skin, 0.4))

    def eyes(self) -> None:
        p = self.person
        look = self.rng.uniform(-0.03, 0.03)
        for side in (-1, 1):
            x, y = side * p.eye_gap, p.eye_height
            lids, middle = ellipse(0, 0, p.eye_size, p.eye_size * (0.5 if self.mood.smiling else 0.62)), (x, y)
            lids[:, 1] += side * lids[:, 0] * p.eye_tilt / p.eye_size
            self.canvas.decal(self.at(1.15 * lids + middle), tone(p.skin, 0.6))
            self.canvas.decal(self.at(lids + middle), (240, 238, 234))
            self.canvas.decal(self.at(ellipse(x + look, y, p.eye_size * 0.48, p.eye_size * 0.48)), p.iris)
            self.canvas.decal(self.at(ellipse(x + look, y, p.eye_size * 0.22, p.eye_size * 0.22)), DARK)
            brow_y, lift = y - p.brow_gap, side * p.brow_tilt
            brow = [(x - 0.17, brow_y - lift), (x, brow_y - 0.05), (x + 0.17, brow_y + lift)]
            shade = tone(p.hair_colour, 0.7)
            self.canvas.line(self.at(brow, 0.02), shade, p.brow, level=None)

    def hair_front(self) -> None:
        p = self.person
        line = -0.36 if p.bangs else -0.76
        wide, top = p.width + p.hair_volume * 0.5, -1.05 - p.hair_volume
        crown = [(-wide, -0.25), (-wide, -0.75), (-0.4, top), (0.4, top), (wide, -0.75), (wide, -0.25)]
        hairline = [(p.width * 0.88, -0.45), (0.45, line), (0, line - 0.06), (-0.45, line), (-p.width * 0.88, -0.45)]
        self.canvas.fill(self.at(smooth([*crown, *hairline]), 0.05), p.hair_colour, 0.6, 0.2)
        if p.bangs:
            for x in np.linspace(-0.5, 0.5, 9) * p.width / 0.7:
                lock = [(x - 0.08, -0.75), (x + 0.09, -0.75), (x + self.rng.uniform(-0.06, 0.06), -0.24)]
                self.canvas.decal(self.at(lock, 0.06), tone(p.hair_colour, self.rng.uniform(0.8, 1.12)))

    def glasses(self) -> None:
        p, frame = self.person, tone(hsv(self.rng, self.rng.random(), 0.4, 0.25), 0.8)
        rx, ry, thick = self.rng.uniform((0.22, 0.18, 0.06), (0.28, 0.25, 0.09))
        dark = self.rng.random() < 0.3
        for side in (-1, 1):
            rim = self.at(ellipse(side * p.eye_gap, p.eye_height + 0.02, min(rx, p.eye_gap - 0.05), ry), 0.1)
            if dark:
                self.canvas.decal(rim, tone(frame, 0.7))
            self.canvas.line(np.concatenate([rim, rim[:1]]), frame, thick, level=None)
            arm = self.at([(side * (p.eye_gap + rx * 0.9), p.eye_height), (side * p.width, p.eye_height - 0.03)])
            self.canvas.line(arm, frame, thick, level=None)
        bridge = [(-p.eye_gap + rx * 0.9, p.eye_height), (p.eye_gap - rx * 0.9, p.eye_height)]
        self.canvas.line(self.at(bridge, 0.12), frame, thick, level=None)

    def hat(self) -> None:
        p, felt = self.person, hsv(self.rng, self.rng.random(), 0.6, 0.5)
        wide, brim = p.width + 0.14, p.width + (0.5 if self.rng.random() < 0.5 else 0.2)
        shift = 0.25 * np.sin(self.mood.yaw)
        corners = np.array([(-wide, -0.62), (-wide * 0.8, -1.35), (wide * 0.8, -1.35), (wide, -0.62)])
        dome = corners + np.array([shift, 0])
        self.canvas.fill(smooth(dome), felt, 0.5, 0.4)
        self.canvas.fill(ellipse(shift, -0.66, brim, 0.13), tone(felt, 0.8), 0.8, 0.1)

    def draw(self) -> None:
        self.jewel = hsv(self.rng, self.rng.choice([0.13, 0.0, 0.55]), 0.6, 0.95)
        self.body()
        self.hair_behind()
        self.ears()
        self.head()
        if self.person.beard:
            self.beard()
        self.mouth()
        self.nose()
        self.eyes()
        self.hair_front()
        if self.mood.glasses:
            self.glasses()
        if self.mood.hat:
            self.hat()


def blend(a: Colour, b: Colour, fraction: float) -> Colour:
    red, green, blue = (round(x + (y - x) * fraction) for x, y in zip(a, b, strict=True))
    return red, green, blue


def attributes(person: Person, mood: Mood) -> dict[str, bool]:
    """The ground truth of an image, in the order of `ATTRIBUTES`."""
    colours = {name: person.hair == i for i, name in enumerate(("Black_Hair", "Blond_Hair", "Brown_Hair"))}
    traits = {"Bangs": person.bangs, "Beard": person.beard, "Big_Nose": person.big_nose}
    traits |= {"Bushy_Eyebrows": person.bushy, "Eyeglasses": mood.glasses, "Mouth_Slightly_Open": mood.open}
    found = colours | traits | {"Smiling": mood.smiling, "Wearing_Earrings": mood.earrings, "Wearing_Hat": mood.hat}
    return {name: found[name] for name in ATTRIBUTES}


def render(person: Person, rng: Generator) -> tuple[Image.Image, dict[str, bool]]:
    """An image of the person, aligned as CelebA's are, and its attributes."""
    mood = Mood.random(person, rng)
    width, height = SIZE
    image = background(width, height, rng)
    angle, scale = rng.normal(0, 0.06), width * rng.uniform(0.85, 0.95)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    canvas = Canvas(scale, turn)
    Portrait(canvas, person, mood, rng).draw()
    azimuth = rng.uniform(-np.pi, 0)
    light = np.array([np.cos(azimuth), np.sin(azimuth), 0.9], np.float32) / 1.81**0.5
    left, top, _, _ = canvas.layers[1].reduce(SUPERSAMPLING).getbbox() or (0, 0, 0, 0)
    face = canvas.lit(light, gloss=rng.uniform(0, 0.25))
    middle = canvas.center / SUPERSAMPLING
    x, y = rng.normal((width / 2, height * 0.52), 1.5)
    image.paste(face, (round(x - middle) + left, round(y - middle) + top), face)
    return photographed(image, rng), attributes(person, mood)
