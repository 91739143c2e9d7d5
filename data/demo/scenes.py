"""A demo object-detection set in COCO format: eight kinds of objects, drawn on cluttered backgrounds.

A thing is a few polygons (object units: x right, y down, about -1..1) and their relief, turned and lit
together, so a new kind is one short function in `KINDS`. A scene depends only on (seed, split, index).
"""

import colorsys
import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter

from data.demo.generate import draw_all, make_once

Array = npt.NDArray[np.floating]
Points = Array | Sequence[tuple[float, float]]
Colour = tuple[int, int, int]
Record = dict[str, object]
Mask = npt.NDArray[np.bool_]

VERSION = 1  # of the scenes: raise it when the same seed gives other ones
SUPERSAMPLING = 2
MIN_VISIBLE = 0.4  # fraction of a silhouette that the border and nearer things must leave visible
SPLITS = ("train", "val")
SHAPES = ((1, 1), (1.125, 0.84375), (0.84375, 1.125), (1.1875, 0.875))  # width and height / size
WHITE, BLACK, WOOD, STEEL = (246, 244, 238), (26, 26, 32), (112, 74, 44), (150, 154, 162)


def ellipse(x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 360) -> Array:
    """Points (48, 2) on an arc; angles in degrees, clockwise from the right."""
    angle = np.radians(np.linspace(start, stop, 48))
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def box(x0: float, y0: float, x1: float, y1: float) -> Array:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def smooth(points: Points) -> Array:
    """The closed curve that cuts the corners of a polygon (Chaikin's scheme)."""
    curve = np.asarray(points, float)
    for _ in range(3):
        following = np.roll(curve, -1, axis=0)
        curve = np.stack([3 * curve + following, curve + 3 * following], axis=1).reshape(-1, 2) / 4
    return curve


def mirrored(right: Points) -> Array:
    """A closed outline from its right half, listed from top to bottom."""
    return np.concatenate([right, np.asarray(right, float)[::-1] * (-1, 1)])


def hsv(rng: Generator, hue: float, saturation: float, value: float, jitter: float = 0.03) -> Colour:
    """A colour near the given one; hue is in turns and wraps."""
    h, s, v = rng.uniform(-1, 1, 3) * (jitter, 0.12, 0.12) + (hue, saturation, value)
    red, green, blue = colorsys.hsv_to_rgb(h % 1, *np.clip([s, v], 0, 1).tolist())
    return round(255 * red), round(255 * green), round(255 * blue)


def tone(colour: Colour, factor: float) -> Colour:
    """Darker below 1; lighter above, white at 2."""
    red, green, blue = (round(c * factor if factor < 1 else c + (255 - c) * (factor - 1)) for c in colour)
    return red, green, blue


class Canvas:
    """Draws one thing of about `side` pixels: its colours, its silhouette and its relief."""

    def __init__(self, side: float, matrix: Array) -> None:
        self.scale = side * SUPERSAMPLING / 2
        pixels = SUPERSAMPLING * round(side * 1.5 + 4)  # leaves room to turn and to stretch
        self.matrix, self.center = matrix.T * self.scale, pixels / 2
        self.layers = [Image.new(mode, (pixels, pixels)) for mode in ("RGB", "L", "L")]
        self.colour, self.alpha, self.relief = map(ImageDraw.Draw, self.layers)

    def pixels(self, points: Points) -> list[float]:
        return (np.asarray(points, float) @ self.matrix + self.center).ravel().tolist()

    def decal(self, points: Points, colour: Colour) -> None:
        """A polygon of paint, visible only inside the silhouette."""
        self.colour.polygon(self.pixels(points), fill=colour)

    def fill(self, points: Points, colour: Colour, level: float = 0.4, dome: float = 0) -> None:
        """A polygon of the silhouette, at a height of `level` and bulging by `dome` on top of it."""
        self.decal(points, colour)
        self.alpha.polygon(self.pixels(points), fill=255)
        outline = np.asarray(points, float)
        center = outline.mean(0)
        for reach in np.linspace(1, 0.1, 10 if dome else 1):
            ring, height = center + (outline - center) * reach, level + dome * np.sqrt(1 - reach**2)
            self.relief.polygon(self.pixels(ring), fill=min(round(255 * height), 255))

    def line(self, points: Points, colour: Colour, width: float, level: float | None = 0.4) -> None:
        """A line as wide as `width` in object units; a decal if `level` is None."""
        pixels, thick = self.pixels(points), max(round(width * self.scale), SUPERSAMPLING)
        self.colour.line(pixels, colour, thick, joint="curve")
        if level is not None:
            self.alpha.line(pixels, 255, thick, joint="curve")
            self.relief.line(pixels, round(255 * level), thick, joint="curve")

    def lit(self, light: Array, gloss: float) -> Image.Image:
        """The thing, RGBA, cropped to its silhouette; `light` is a unit vector, z towards the viewer."""
        colour, alpha, relief = (layer.reduce(SUPERSAMPLING) for layer in self.layers)
        bounds = alpha.getbbox()
        # Blurred in a small float image, because steps of 1/255 in the relief would show as facets.
        soft = [relief.filter(ImageFilter.BoxBlur(r * relief.width)).convert("F") for r in (0.015, 0.06)]
        crisp, broad = (np.asarray(f.resize((48, 48)).resize(f.size).crop(bounds)) for f in soft)
        slope_y, slope_x = np.gradient((0.5 * crisp + broad) * (relief.width / 1000))
        facing = (light[2] - light[0] * slope_x - light[1] * slope_y) / np.sqrt(1 + slope_x**2 + slope_y**2)
        diffuse = 0.45 + 0.63 * np.clip(facing / light[2], 0, 1.25)
        shine = 255 * gloss * np.clip(10 * facing - 9, 0, 1) ** 2
        shaded = np.asarray(colour.crop(bounds)) * diffuse[..., None] + shine[..., None]
        image = Image.fromarray(np.clip(shaded, 0, 255).astype(np.uint8))
        image.putalpha(alpha.crop(bounds))
        return image


def apple(canvas: Canvas, rng: Generator) -> None:
    skin = hsv(rng, rng.choice([0.99, 0.99, 0.99, 0.24, 0.13]), 0.85, 0.82)
    half = [(0.0, -0.55), (0.3, -0.84), (0.85, -0.75), (1.02, -0.1), (0.8, 0.75), (0.4, 1.08), (0.0, 0.9)]
    canvas.fill(smooth(mirrored(half)), skin, 0.3, dome=0.6)
    canvas.decal(ellipse(0, -0.58, 0.26, 0.09), tone(skin, 0.55))
    canvas.line([(0, -0.56), (0, -0.75), (rng.uniform(-0.15, 0.15), -1)], WOOD, 0.1)
    leaf = smooth([(0.02, -0.8), (0.3, -1.02), (0.68, -0.98), (0.4, -0.74)])
    canvas.fill(leaf, hsv(rng, 0.3, 0.75, 0.6), 0.8)


def ball(canvas: Canvas, rng: Generator) -> None:
    paints = [hsv(rng, rng.random(), 0.85, 0.9), WHITE, hsv(rng, rng.random(), 0.85, 0.9), WHITE]
    canvas.fill(ellipse(0, 0, 0.97, 0.97), WHITE, 0.2, dome=0.8)
    (x, y, start), panel = rng.uniform((-0.4, -0.4, 0), (0.4, 0.4, 360)), 360 / rng.choice([6, 8])
    for i, angle in enumerate(np.arange(start, start + 359, panel)):
        canvas.decal([(x, y), *ellipse(0, 0, 1, 1, angle, angle + panel)], paints[i % 4])
    canvas.decal(ellipse(x, y, 0.17, 0.17), WHITE)


def car(canvas: Canvas, rng: Generator) -> None:
    paint, glass = hsv(rng, rng.random(), 0.75, 0.8), hsv(rng, 0.56, 0.25, 0.85)
    rear, front, roof, slant = rng.uniform((-0.95, 0.4, -0.62, 0.2), (-0.6, 0.65, -0.48, 0.4))
    cabin = np.array([(rear, 0), (rear + 0.1, roof), (front - slant, roof), (front, 0)])
    middle = cabin.mean(0)
    canvas.fill(cabin, paint, 0.45)
    canvas.decal(middle + (cabin - middle) * (0.84, 0.72), glass)
    canvas.line([(middle[0], 0), (middle[0], roof)], paint, 0.08, level=None)
    canvas.fill(smooth(box(-1.08, -0.12, 1.08, 0.48)), paint, 0.5, dome=0.3)
    canvas.line([(-1, 0.35), (middle[0], 0.35), (middle[0], -0.04)], tone(paint, 0.6), 0.03, level=None)
    canvas.decal(box(0.84, 0.02, 1, 0.16), (255, 240, 170))
    canvas.decal(box(-1, 0.02, -0.88, 0.16), (190, 30, 30))
    for x in (-0.56, 0.56):
        canvas.decal(ellipse(x, 0.4, 0.29, 0.29), tone(paint, 0.35))
        canvas.fill(ellipse(x, 0.42, 0.23, 0.23), BLACK, 0.6)
        canvas.fill(ellipse(x, 0.42, 0.12, 0.12), STEEL, 0.75)


def fish(canvas: Canvas, rng: Generator) -> None:
    hue = rng.choice([0.07, 0.14, 0.52, 0.6, 0.88])
    skin, fin = hsv(rng, hue, 0.8, 0.9), hsv(rng, hue + 0.06, 0.85, 0.75)
    canvas.fill(smooth([(0.45, 0), (0.95, -0.6), (1.05, -0.4), (0.85, 0), (1.05, 0.4), (0.95, 0.6)]), fin)
    canvas.fill(smooth([(-0.4, -0.3), (-0.1, -0.85), (0.35, -0.62), (0.4, -0.1)]), fin, 0.3)
    canvas.fill(smooth([(-0.2, 0.3), (0.1, 0.8), (0.3, 0.6), (0.25, 0.2)]), fin, 0.3)
    back = [(-1.05, -0.08), (-0.7, -0.5), (0.0, -0.6), (0.75, -0.1)]
    canvas.fill(smooth([*back, (0.75, 0.1), (0.0, 0.56), (-0.7, 0.46)]), skin, 0.35, dome=0.5)
    stripe = WHITE if rng.random() < 0.5 else tone(skin, 0.5)
    for x in np.linspace(-0.3, 0.38, int(rng.integers(0, 4))):
        canvas.decal(ellipse(x, 0, 0.07, 0.45), stripe)
    canvas.line(ellipse(-0.68, 0, 0.22, 0.32, -60, 60), tone(skin, 0.6), 0.04, level=None)
    canvas.decal(ellipse(-0.7, -0.12, 0.11, 0.11), WHITE)
    canvas.decal(ellipse(-0.72, -0.12, 0.06, 0.06), BLACK)


def house(canvas: Canvas, rng: Generator) -> None:
    wall, roof = hsv(rng, 0.1, 0.25, 0.85), hsv(rng, rng.choice([0.01, 0.05, 0.6]), 0.65, 0.55)
    ridge, top, chimney = rng.uniform((0, -0.95, -0.6), (0.5, -0.7, 0.6))
    canvas.fill(box(chimney - 0.12, -0.95, chimney + 0.12, 0), tone(roof, 0.8))
    canvas.fill(box(-0.78, -0.1, 0.78, 0.95), wall, 0.3)
    canvas.fill(mirrored([(ridge, top), (1, -0.05), (0.96, 0.06)]), roof, 0.7)
    for fraction in (0.3, 0.55, 0.8):
        y, reach = top - fraction * (0.05 + top), ridge + fraction * (1 - ridge)
        canvas.line([(-reach, y), (reach, y)], tone(roof, 0.75), 0.04, level=None)
    door, *windows = rng.permutation([-0.48, 0, 0.48])
    canvas.fill(box(door - 0.17, 0.38, door + 0.17, 0.95), hsv(rng, rng.random(), 0.7, 0.45), 0.15)
    for x in windows:
        canvas.fill(box(x - 0.19, 0.24, x + 0.19, 0.64), tone(wall, 1.6))
        for left, upper in ((x - 0.14, 0.29), (x + 0.02, 0.29), (x - 0.14, 0.46), (x + 0.02, 0.46)):
            canvas.decal(box(left, upper, left + 0.12, upper + 0.13), (100, 165, 205))


def star(canvas: Canvas, rng: Generator) -> None:
    paint = hsv(rng, rng.choice([0.13, 0.13, 0.13, 0.93, 0.5]), 0.8, 0.95)
    arms, waist = int(rng.choice([5, 5, 6])), rng.uniform(0.4, 0.5)
    corners = [ellipse(0, 0, r, r, -90 + 180 * i / arms)[0] for i, r in enumerate([1, waist] * arms)]
    canvas.fill(corners, paint, 0.3, dome=0.5)
    for i in range(0, 2 * arms, 2):  # cut like a gem: one side of every arm lies in the shade
        canvas.decal([(0, 0), corners[i], corners[i - 1]], tone(paint, 0.75))


def tree(canvas: Canvas, rng: Generator) -> None:
    leaves = hsv(rng, 0.31, 0.7, 0.5, jitter=0.08)
    canvas.fill([(-0.1, -0.2), (0.1, -0.2), (0.15, 1), (-0.15, 1)], WOOD)
    if rng.random() < 0.5:
        for top, bottom, reach in ((-0.3, 0.62, 0.72), (-0.65, 0.2, 0.58), (-1.0, -0.2, 0.42)):
            tier = mirrored([(0, top), (reach, bottom), (reach / 2, bottom - 0.06), (0.1, bottom + 0.04)])
            canvas.fill(tier, tone(leaves, 0.85 - 0.25 * top), 0.3 - 0.3 * top)
    else:
        for x, y, radius in rng.uniform((-0.42, -0.62, 0.25), (0.42, 0, 0.37), (9, 3)):
            canvas.fill(ellipse(x, y, radius, radius), tone(leaves, 0.95 - 0.4 * y), 0.3, dome=0.5)


def umbrella(canvas: Canvas, rng: Generator) -> None:
    paints = [hsv(rng, rng.random(), 0.8, 0.85), hsv(rng, rng.random(), rng.choice([0, 0.6]), 0.95)]
    canvas.line([(0, -1), (0, 0.8)], STEEL, 0.07)
    canvas.line(ellipse(0.15, 0.8, 0.15, 0.18, 0, 180), WOOD, 0.1)
    ribs = np.sin(np.linspace(-np.pi / 2, np.pi / 2, int(rng.integers(5, 8))))
    hems = [ellipse((a + b) / 2, 0.08, (b - a) / 2, 0.1, 180, 360) for a, b in pairwise(ribs)]
    canvas.fill(np.concatenate([*hems, ellipse(0, 0.08, 1, 0.92, 0, -180)]), BLACK, 0.3, dome=0.5)
    for i, hem in enumerate(hems):
        left, right = (ellipse(0, 0.08, x, 0.92, -90, 0) for x in ribs[i : i + 2])
        canvas.decal(np.concatenate([left, hem, right[::-1]]), paints[i % 2])


def distractor(canvas: Canvas, rng: Generator) -> None:
    """Shaded like the kinds but not one of them, so that shading alone does not identify objects."""
    paint, corners = hsv(rng, rng.random(), rng.uniform(0, 0.8), rng.uniform(0.3, 0.9)), rng.integers(3, 8)
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False) + rng.uniform(-0.4, 0.4, corners)
    shape = np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(0.5, 0.95, (corners, 1))
    if rng.random() < 0.6:
        canvas.fill(smooth(shape) if rng.random() < 0.5 else shape, paint, dome=rng.uniform(0, 0.5))
    else:
        canvas.line(shape, paint, rng.uniform(0.15, 0.3))


Drawing = Callable[[Canvas, Generator], None]
DRAWINGS: tuple[Drawing, ...] = (apple, ball, car, fish, house, star, tree, umbrella)
KINDS = {draw.__name__: draw for draw in DRAWINGS}


def draw_thing(draw: Drawing, side: float, light: Array, rng: Generator) -> Image.Image:
    """One thing about `side` pixels long, RGBA, cropped to its silhouette."""
    angle, stretch, mirror = rng.normal(0, 0.14), rng.uniform(0.88, 1.12), rng.choice([-1, 1])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    canvas = Canvas(side, turn * (mirror * stretch, 1 / stretch))
    draw(canvas, rng)
    return canvas.lit(light, gloss=rng.uniform(0, 0.5))


def noise(width: int, height: int, rng: Generator, *cells: int) -> Array:
    """Soft random texture (height, width) in 0..1: a sum of ever finer and fainter grids of `cells`."""
    grids = (Image.fromarray(rng.random((n, n), np.float32) / 1.7**i) for i, n in enumerate(cells))
    total = sum(np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC)) for grid in grids)
    return np.asarray((total - np.min(total)) / np.ptp(total))


def background(width: int, height: int, rng: Generator) -> Image.Image:
    """A background of two muted colours, mixed by a random pattern, with faint flat clutter."""
    w, h = width // 2, height // 2  # enough for soft patterns, and quick
    y, x = np.mgrid[:h, :w].astype(np.float32) / h
    angle, period, horizon = rng.uniform((0, 0.08, 0.35), (np.pi, 0.3, 0.7)).astype(np.float32)
    u, v = (x * np.cos(a) + y * np.sin(a) for a in (angle, angle + np.pi / 2))
    clouds, rough = noise(w, h, rng, 3, 7, 15), noise(w, h, rng, 5, 11, 23, 50, 90)
    patterns: list[Callable[[], Array]] = [
        lambda: u + 0.3 * clouds,
        lambda: rough,
        lambda: 0.3 + 0.3 * np.sin(40 * (v + 0.15 * clouds)) + 0.4 * (u // period % 2),  # planks
        lambda: np.where(np.minimum(u / period % 1, v / period % 1) < 0.08, 1, 0.6 * clouds),  # tiles
        lambda: 0.35 + 0.2 * (np.sin(6.3 * u / period) + np.sin(6.3 * v / period)) + 0.3 * clouds,  # cloth
        lambda: np.where(y > horizon, 0.4 + 0.6 * rough, 0.3 * y + 0.15 * clouds),  # floor and wall
    ]
    weight = np.clip(255 * patterns[rng.integers(len(patterns))](), 0, 255)
    hue, shades = rng.random(), rng.uniform((0.1, 0.3), (0.5, 0.95), (2, 2)).tolist()
    near, far = (Image.new("RGB", (w, h), hsv(rng, hue, s, v, 0.15)) for s, v in shades)
    ground = Image.composite(near, far, Image.fromarray(weight.astype(np.uint8))).resize((width, height))
    for _ in range(rng.integers(0, 10)):
        circle = rng.uniform((0, 0, 0.03 * height), (width, height, 0.2 * height)).tolist()
        paint = (*hsv(rng, hue, 0.3, rng.uniform(0.2, 0.9), 0.3), int(rng.integers(40, 180)))
        sides, turn = int(rng.choice([3, 4, 5, 24])), rng.uniform(0, 360)
        ImageDraw.Draw(ground, "RGBA").regular_polygon(circle, sides, turn, paint)
    return ground


def place(image: Image.Image, covered: Mask, rng: Generator) -> tuple[tuple[int, int], Mask] | None:
    """A random place for a thing behind what is `covered` (height, width), if enough of it shows: corner and mask."""
    alpha, room = image.getchannel("A"), np.subtract(covered.shape[::-1], image.size)
    for _ in range(10):
        margin = rng.choice([0, 0, 0, 0, 0.3]) * np.array(image.size)  # some are cut by the border
        x, y = rng.uniform(-margin, np.maximum(room + margin, 0)).round().astype(int).tolist()
        layer = Image.new("L", covered.shape[::-1])
        layer.paste(alpha, (x, y))
        mask = np.asarray(layer) > 127
        if np.count_nonzero(mask & ~covered) >= rng.uniform(MIN_VISIBLE, 1) * sum(alpha.histogram()[128:]):
            return (x, y), mask
    return None


def photographed(scene: Image.Image, rng: Generator) -> Image.Image:
    """The scene as a small camera takes it: uneven light, a colour cast, some blur and grain."""
    pixels = np.array(scene.filter(ImageFilter.BoxBlur(rng.uniform(0, 0.8))), np.float32)
    gain = np.float32(rng.uniform(0.8, 1.25) * rng.uniform(0.92, 1.08, 3))
    lamp = 1 + rng.uniform(0, 0.5) * (noise(*scene.size, rng, 2, 3) - 0.5)
    pixels *= gain * lamp[..., None]
    pixels += rng.uniform(0, 20) * (rng.random((*lamp.shape, 1), np.float32) - 0.5)
    return Image.fromarray(np.clip(pixels, 0, 255, out=pixels).astype(np.uint8))


def render_scene(size: int, rng: Generator) -> tuple[Image.Image, list[Record]]:
    """One scene and the COCO annotations of the things in it, the nearest first."""
    width, height = (round(size * side) for side in SHAPES[rng.integers(len(SHAPES))])
    scene, covered = background(width, height, rng), np.zeros((height, width), bool)
    azimuth, darkness = rng.uniform((-np.pi, 50), (0, 150))  # the lamp is above, as daylight is
    light = np.array([np.cos(azimuth), np.sin(azimuth), 0.9], np.float32) / 1.81**0.5
    ids = rng.integers(1, len(DRAWINGS) + 1, 0 if rng.random() < 0.03 else rng.integers(1, 8))
    annotations: list[Record] = []
    things = []
    for i in rng.permutation([*ids, *[0] * rng.integers(0, 5)]).astype(int).tolist():
        side = float(np.clip(size * rng.lognormal(np.log(0.26), 0.38), 24, 0.45 * size))
        image = draw_thing([distractor, *DRAWINGS][i], side, light, rng)
        if found := place(image, covered, rng):
            corner, mask = found
            covered |= mask
            things.append((image, corner))
            x0, y0, x1, y1 = Image.fromarray(mask).getbbox() or (0, 0, 0, 0)
            row = {"category_id": i, "bbox": (x0, y0, x1 - x0, y1 - y0), "area": int(mask.sum())}
            annotations += [row] if i else []
    for image, corner in reversed(things):
        pad = max(image.size) // 8 + 1
        shadow = Image.new("L", (image.width + 2 * pad, image.height + 2 * pad))
        shadow.paste(int(darkness), (pad, pad), image.getchannel("A"))
        x, y = (np.array(corner) - pad - 0.4 * pad * light[:2]).round().astype(int).tolist()
        scene.paste((12, 12, 24), (x, y), shadow.filter(ImageFilter.BoxBlur(0.4 * pad)))
        scene.paste(image, corner, image)
    return photographed(scene, rng), annotations


def write_scene(root: Path, size: int, seed: int, job: tuple[str, int]) -> tuple[Record, list[Record]]:
    """Saves the scene of a (split, index); returns its image and annotation rows of the COCO file."""
    split, index = job
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    scene, annotations = render_scene(size, rng)
    path = root / split / f"{index:06d}.jpg"
    scene.save(path, quality=int(rng.integers(70, 95)))
    row: Record = {"id": index, "file_name": path.name, "width": scene.width, "height": scene.height}
    return row, [{"image_id": index, **annotation} for annotation in annotations]


def write_scenes(root: Path, *, train: int = 600, val: int = 150, size: int = 320, seed: int = 0) -> None:
    """Writes `root`/{train,val}/*.jpg and `root`/{train,val}.json, unless they exist already.

    `size` is about the side of a scene in pixels: widths and heights differ.
    """
    info = {"version": VERSION, "train": train, "val": val, "size": size, "seed": seed}
    jobs = [(split, index) for split in SPLITS for index in range(info[split])]
    categories = [{"id": i, "name": kind} for i, kind in enumerate(KINDS, 1)]

    def make(folder: Path) -> None:
        for split in SPLITS:
            (folder / split).mkdir()
        rows = draw_all(partial(write_scene, folder, size, seed), jobs)
        for split, part in (("train", rows[:train]), ("val", rows[train:])):
            images, things = [image for image, _ in part], [thing for _, things in part for thing in things]
            annotations = [{"id": i, "iscrowd": 0, **thing} for i, thing in enumerate(things, 1)]
            content = {"info": info, "images": images, "annotations": annotations, "categories": categories}
            (folder / f"{split}.json").write_text(json.dumps(content))

    make_once(root, info, make)
