"""Settings that fit a data set, and why."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.inspect.contents import Contents
from tasks.inspect.files import FileInfo

WANTED = 16  # pixels of the network's input: at most a tenth of the boxes should be smaller; two cells at stride 8
STEP, LOWEST, HIGHEST = 32, 320, 640  # pixels: step and bounds of advised resolutions
RARE = 4  # a rare class is in at least so many times fewer images than the median class
WASTE = 16  # pixels of a file per pixel of the network's input above which smaller copies are advised


@dataclass(frozen=True)
class Advice:
    settings: str  # of tasks.run; empty if the advice is not about settings
    why: str


def advise(contents: Contents, infos: Sequence[FileInfo], config: dict[str, Any]) -> list[Advice]:
    """Advice on training with a data set of detection or classification."""
    return list(_advice(contents, infos, config)) if contents.names else []


def box_sides(contents: Contents, infos: Sequence[FileInfo]) -> npt.NDArray[np.float64]:
    """Sides of train's boxes (B,): the geometric mean of width and height, as fractions of their images' sides."""
    assert contents.boxes is not None
    sizes = np.array([(i.width, i.height) for i in infos], np.float64).reshape(-1, 2)[contents.row]
    own = (contents.split[contents.row] == 0) & ~contents.crowd & (sizes > 0).all(axis=1)
    sides = (contents.boxes[own, 2:] - contents.boxes[own, :2]) / sizes[own]
    return np.sqrt(np.clip(sides, 0, 1).prod(axis=1))


def _advice(contents: Contents, infos: Sequence[FileInfo], config: dict[str, Any]) -> Iterator[Advice]:
    known = np.array([i.width * i.height for i in infos if not i.problem])
    resolution = config["task"]["resolution"]
    if contents.boxes is not None:
        sides = box_sides(contents, infos)
        if len(sides):
            yield from _sized(sides, known, resolution)
        yield from _balanced(contents)
    if len(known) and np.median(known) > WASTE * resolution**2:
        words = f"half of the images have over {np.median(known) / 1e6:.1f} megapixels: smaller copies load faster"
        yield Advice("", words)


def _sized(sides: npt.NDArray[np.float64], pixels: npt.NDArray[Any], resolution: int) -> Iterator[Advice]:
    """Advises a higher resolution if boxes are small; their sides are fractions of their images' sides."""
    tenth = float(np.quantile(sides, 0.1))
    wanted = math.ceil(WANTED / max(tenth, 1e-3) / STEP) * STEP
    # enlarged images have no more detail
    most = min(HIGHEST, int(math.sqrt(np.median(pixels)) if len(pixels) else HIGHEST) // STEP * STEP)
    advised = min(max(wanted, LOWEST), max(most, LOWEST))
    if advised > resolution:
        shown = f"{tenth * advised:.0f} of {advised} pixels, {tenth * resolution:.0f} of {resolution}"
        words = f"a tenth of the boxes are under {tenth:.1%} of their image's side, {shown}; a step takes longer"
        yield Advice(f"task.resolution={advised}", words)


def _balanced(contents: Contents) -> Iterator[Advice]:
    """Advises class balancing if some classes are rare, counted in images, not in boxes."""
    train = (contents.split[contents.row] == 0) & ~contents.crowd
    pairs = np.unique(np.stack([contents.row[train], contents.label[train]], axis=1), axis=0)
    images = np.bincount(pairs[:, 1], minlength=len(contents.names))
    there = images[images > 0]
    if len(there) < 2 or there.min() * RARE > np.median(there):
        return
    fraction = float(f"{min(1.0, np.median(there) / contents.count('train')):.1g}")
    rarest = contents.names[int(np.where(images > 0, images, images.max() + 1).argmin())]
    words = f"{rarest} is in {there.min():,} images, the median class in {np.median(there):,.0f}"
    yield Advice(f"data.balance={fraction:g}", words)
