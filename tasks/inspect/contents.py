"""The splits of a data set in columns: images, and their labels."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backbones.errors import UserError
from data.base import SPLITS, Split, SuiteData
from data.classification import ClassificationData, Sample
from data.detection import DetectionData, Record
from data.geo.places import GeoData
from data.identities import IdentityData
from data.notes import Notes, noted
from data.shards.labelled import LabelledShards

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
NO_BOX = np.full(4, np.nan)


@dataclass(frozen=True)
class Contents:
    """N images and M labels: in detection each has a box; else an image has one label, several attributes, or none.

    A split with the same images as an earlier one is only in `same`.
    """

    names: list[str]  # of the classes or attributes
    splits: list[str]
    same: dict[str, str]  # {"test": "val"} if test has val's images
    paths: list[Path]  # (N,)
    split: Ints  # (N,) indices of `splits`
    row: Ints  # (M,) the image of a label
    label: Ints  # (M,) indices of `names`
    boxes: Floats | None  # (M, 4) left, top, right, bottom in pixels of the upright image
    crowd: Flags  # (M,) regions to ignore
    difficult: Flags  # (M,)
    unlabelled: Flags  # (N,) images without a label, or of which no attribute is known
    notes: Notes = field(default_factory=Notes)  # on what the readers left out
    warnings: list[str] = field(default_factory=list)  # of the readers

    def labels_of(self, row: int) -> Ints:
        """The indices (K,) of an image's labels; `row` is sorted."""
        return np.arange(*np.searchsorted(self.row, [row, row + 1]))

    def count(self, split: str, objects: bool = False) -> int:
        """Images, or labels, of a split."""
        number = self.splits.index(self.same.get(split, split))
        return int((self.split[self.row] == number).sum() if objects else (self.split == number).sum())

    def per_class(self, split: str) -> Ints:
        """Number of labels (C,) of each class in a split, without regions to ignore."""
        own = (self.split[self.row] == self.splits.index(self.same.get(split, split))) & ~self.crowd
        return np.bincount(self.label[own], minlength=len(self.names))


def read(data: SuiteData) -> Contents:
    """All splits of a data set.

    Raises:
        UserError: one cannot be read, or this kind of data is not checked.
    """
    if isinstance(data, LabelledShards):
        raise UserError("shards are not checked: only data whose images are files")
    with noted() as notes, reader_warnings() as warnings:
        if isinstance(data, DetectionData):
            return _columns(data.labels, {s: data.records(s) for s in SPLITS}, notes, warnings)
        if isinstance(data, IdentityData):  # each split numbers its own people
            people = {s: [Sample(sample.path, -1) for sample in data.samples(s)] for s in SPLITS}
            return _columns([], people, notes, warnings)
        if isinstance(data, ClassificationData):
            return _columns(data.labels, {s: data.samples(s) for s in SPLITS}, notes, warnings)
        if isinstance(data, GeoData):
            photos = {s: [Sample(path, -1) for path in data.places(s).paths] for s in SPLITS}
            return _columns([], photos, notes, warnings)
    raise UserError("this kind of data is not checked")


@contextmanager
def reader_warnings() -> Iterator[list[str]]:
    """Collects the readers' warnings for the report, instead of the terminal."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]  # shorter than a class
    readers = logging.getLogger("data")
    before, readers.propagate = readers.propagate, False
    readers.addHandler(handler)
    try:
        yield found
    finally:
        readers.removeHandler(handler)
        readers.propagate = before


def _columns(
    names: list[str], rows: Mapping[Split, Sequence[Record | Sample]], notes: Notes, warnings: list[str]
) -> Contents:
    paths: list[Path] = []
    splits: list[str] = []
    same: dict[str, str] = {}
    seen: dict[str, list[Path]] = {}
    images: list[tuple[int, Record | Sample]] = []
    for name, own in rows.items():
        files = [image.path for image in own]
        if twin := next((other for other, known in seen.items() if known == files), None):
            same[name] = twin
            continue
        seen[name] = files
        images += [(len(splits), image) for image in own]
        splits.append(name)
        paths += files
    if not images:
        raise UserError(warnings[0] if warnings else "no split has an image")
    parts = [_labels(image) for _, image in images]
    counts = [len(label) for label, *_ in parts]
    label, boxes, crowd, difficult = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Contents(
        names,
        splits,
        same,
        paths,
        np.array([split for split, _ in images], np.int64),
        np.repeat(np.arange(len(images)), counts),
        label,
        boxes if isinstance(images[0][1], Record) else None,
        crowd,
        difficult,
        np.array([_unlabelled(image) for _, image in images], bool),
        notes,
        warnings,
    )


def _labels(image: Record | Sample) -> tuple[Ints, Floats, Flags, Flags]:
    """An image's labels (K,), boxes (K, 4), and which are crowd and difficult (K,)."""
    if isinstance(image, Record):
        return image.labels, image.boxes, image.crowd, image.difficult
    if isinstance(image.label, np.ndarray):
        label = np.flatnonzero(image.label > 0)
    else:
        label = np.array([image.label] if image.label >= 0 else [], np.int64)
    none = np.zeros(len(label), bool)
    return label, np.tile(NO_BOX, (len(label), 1)), none, none


def _unlabelled(image: Record | Sample) -> bool:
    if isinstance(image, Record):
        return not len(image.labels)
    return bool(np.all(np.asarray(image.label) < 0))
