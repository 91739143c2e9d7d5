"""The numbers that describe a data set: a table of its splits, and histograms."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from tasks.inspect.advice import box_sides
from tasks.inspect.survey import Survey

SIZES = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)  # pixels
SIDES = (0.02, 0.04, 0.08, 0.16, 0.32, 0.64)  # fractions of an image's side
OBJECTS = (0, 1, 2, 4, 8, 16, 32, 64)  # boxes of an image
MOST = 3  # formats or sizes that are listed


class Histogram(NamedTuple):
    """Bars: the label of each, and its count."""

    title: str
    bars: list[tuple[str, int]]


def by_split(survey: Survey) -> list[tuple[str, list[str]]]:
    """The rows of a table with a column for each split: images, labels, classes with labels."""
    contents = survey.contents
    splits = [*contents.splits, *contents.same]
    images = [contents.count(s) for s in splits]
    rows = [("images", [f"{n:,}" for n in images])]
    if contents.names:
        counts = [contents.count(s, objects=True) for s in splits]
        rows.append(("labels" if contents.boxes is None else "boxes", [f"{n:,}" for n in counts]))
        if contents.boxes is not None:
            rows.append(("boxes per image", [f"{n / max(1, i):.1f}" for n, i in zip(counts, images, strict=True)]))
        rows.append(("classes", [f"{(contents.per_class(s) > 0).sum():,}" for s in splits]))
    words = {i: f"same as {contents.same[s]}" for i, s in enumerate(splits) if s in contents.same}
    return [(name, [words.get(i, value) for i, value in enumerate(row)]) for name, row in rows]


def formats(survey: Survey) -> str:
    """The formats of the files, with their counts."""
    return _named(Counter(i.format for i in survey.infos if i.format))


def sizes(survey: Survey) -> str:
    """The most common sizes."""
    return _named(Counter(f"{i.width} x {i.height}" for i in survey.infos if i.width))


def _named(counts: Counter[str]) -> str:
    shown = counts.most_common(MOST)
    words = [f"{name} ({count:,})" for name, count in shown]
    rest = counts.total() - sum(count for _, count in shown)
    return ", ".join([*words, *([f"others ({rest:,})"] if rest else [])])


def histograms(survey: Survey) -> list[Histogram]:
    """Histograms of the images' longer sides, and in detection of the boxes."""
    contents = survey.contents
    longer = np.array([max(i.width, i.height) for i in survey.infos if i.width])
    found = [Histogram("longer side of images, pixels", _binned(longer, SIZES, "{:g}"))]
    if contents.boxes is not None:
        sides = box_sides(contents, survey.infos)
        found.append(Histogram("size of train boxes, of the image side", _binned(sides, SIDES, "{:.0%}")))
        own = np.bincount(contents.row[~contents.crowd], minlength=len(contents.paths))
        found.append(Histogram("boxes per image", _binned(own, OBJECTS, "{:g}")))
    return [h for h in found if h.bars]


def _binned(values: np.ndarray, edges: tuple[float, ...], form: str) -> list[tuple[str, int]]:
    """Counts of the values (N,) up to each edge, without empty bins at the ends."""
    if not len(values):
        return []
    counts = np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1)
    words = [form.format(edge) for edge in edges]
    names = [f"to {words[0]}" if edges[0] else words[0], *(f"to {w}" for w in words[1:]), f"over {words[-1]}"]
    (filled,) = np.nonzero(counts)
    return [(names[i], int(counts[i])) for i in range(filled[0], filled[-1] + 1)]


def per_class(survey: Survey) -> list[tuple[str, list[int]]]:
    """Each class with its number of labels in each split, the most common first."""
    contents = survey.contents
    counts = [contents.per_class(s) for s in contents.splits]
    rows = [(name, [int(c[i]) for c in counts]) for i, name in enumerate(contents.names)]
    return sorted(rows, key=lambda row: -sum(row[1]))
