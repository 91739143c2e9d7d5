"""Base of the formats that give each object a class name, with splits as lists, as folders or without splits."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from backbones.errors import UserError
from data.base import SPLITS
from data.detection import DetectionData, Record, Split, report_dropped, usable

NUMBERED = re.compile(r"class\d{1,5}")


@dataclass
class Annotated:
    """An image with its objects: names of their classes, boxes (N, 4) xyxy in pixels of the upright image, whether they
    are difficult, the annotated width and height, 0 if not annotated, and the word in a column of splits.
    """

    path: Path
    names: list[str] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)
    difficult: list[bool] = field(default_factory=list)
    size: tuple[float, float] = (0.0, 0.0)
    split: str = ""


class AnnotatedData(DetectionData):
    """`train`, `val` and `test` each name a source below `root`. If train is null, a format's `find` looks for them;
    without one for val, a fifth of train's images is drawn for it. The test split is val's if null.
    """

    least = 0.0  # the sides of a usable box are longer than that

    def __init__(
        self,
        root: str,
        resolution: int,
        *,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(root, resolution, **settings)
        self._records: dict[Split, list[Record]] = {}
        self.given = {split: name for split, name in (("train", train), ("val", val), ("test", test)) if name}

    def find(self) -> Mapping[str, str | tuple[str, ...]]:
        """The sources of the splits, one or several for each; at least train has one.

        Raises:
            UserError: there are none.
        """
        raise NotImplementedError("a data format defines find")

    def read(self, source: str) -> list[Annotated]:
        """The images of a source.

        Raises:
            UserError: it is absent, or has no usable image.
        """
        raise NotImplementedError("a data format defines read")

    @cached_property
    def splits(self) -> dict[Split, list[Annotated]]:
        """The images of each split that has its own source, or was drawn."""
        given: dict[str, str | tuple[str, ...]] = {**({} if "train" in self.given else self.find()), **self.given}
        images = {source: self._read_all(source) for source in dict.fromkeys(given.values())}
        if "test" in given and "test" not in self.given and not any(image.names for image in images[given["test"]]):
            self.leave_out_test(given)
        sources = self.with_val(given)
        if "val" in sources:
            return {split: images[sources[split]] for split in SPLITS if split in sources}
        everything = images[sources["train"]]
        columns = [[getattr(image, key) for image in everything] for key in ("path", "names", "split")]
        wanted = self.split_images(*columns)
        splits = [s for s in SPLITS if s in ("train", "val", *wanted)]
        return {s: [image for image, split in zip(everything, wanted, strict=True) if split == s] for s in splits}

    def _read_all(self, source: str | tuple[str, ...]) -> list[Annotated]:
        names = (source,) if isinstance(source, str) else source
        return [image for name in names for image in self.read(name)]

    @cached_property
    def labels(self) -> list[str]:
        names = {name for images in self.splits.values() for image in images for name in image.names}
        numbers = [int(name[5:]) for name in names if NUMBERED.fullmatch(name)]
        if len(numbers) == len(names):  # the classes have no other names
            return [f"class{i}" for i in range(max(numbers, default=-1) + 1)]
        return sorted(names)

    def use_labels(self, labels: list[str]) -> None:
        if set(self.labels) <= set(labels):  # not every folder has an object of each class
            self.labels = labels
        super().use_labels(labels)

    def records(self, split: Split) -> list[Record]:
        own: Split = split if split in self.splits else "val"
        if own not in self._records:
            self._records[own] = self._records_of(own)
        return self._records[own]

    def _records_of(self, split: Split) -> list[Record]:
        label = {name: i for i, name in enumerate(self.labels)}
        dropped: Counter[str] = Counter()
        records = []
        for i, image in enumerate(self.splits[split]):
            boxes = np.array(image.boxes, np.float64).reshape(-1, 4)
            kept = usable(boxes, image.size, image.path, dropped, self.least)
            boxes = boxes[kept]
            labels = np.array([label[name] for name in image.names], np.int64)[kept]
            areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
            difficult = np.array(image.difficult or [False] * len(kept), bool)[kept]
            crowd = np.zeros(len(boxes), bool)
            records.append(Record(image.path, i, boxes, labels, areas, crowd, difficult, image.size))
        report_dropped(f"{self.root}, {split}", dropped)
        return records


def existing_path(root: Path, name: str) -> Path:
    """`root`/`name`.

    Raises:
        UserError: it does not exist.
    """
    if not (root / name).exists():
        raise UserError(f"there is no file or folder {root / name}")
    return root / name
