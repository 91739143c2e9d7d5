"""Pascal VOC folders: Annotations/*.xml, ImageSets/Main/<split>.txt, JPEGImages/."""

import logging
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from backbones.errors import UserError
from data.coco import record
from data.detection import DetectionData, Record, Split, report_dropped, usable
from data.text import read_lines

log = logging.getLogger(__name__)

Objects = list[tuple[str, np.ndarray]]


def read_voc(root: Path, split: str) -> dict[str, Objects]:
    """Objects (name, xyxy box) of each image that ImageSets/Main/<split>.txt lists.

    Unusable boxes and unreadable annotation files are counted, named and left out.

    Raises:
        UserError: the list is absent or not UTF-8.
    """
    listing = root / "ImageSets" / "Main" / f"{split}.txt"
    if not listing.is_file():
        raise UserError(f"there is no list {listing}; data.root must be a Pascal VOC folder with that split")
    found: dict[str, Objects] = {}
    dropped: Counter[str] = Counter()
    # some lists of a single class have a second column
    for name in (line.split()[0] for line in read_lines(listing) if line.strip()):
        annotation = root / "Annotations" / f"{name}.xml"
        try:
            tree = ElementTree.parse(annotation)
            objects, size = [_object(node) for node in tree.iter("object")], _size(tree)
        # LookupError: of an unknown encoding
        except (OSError, ElementTree.ParseError, TypeError, ValueError, LookupError) as error:
            log.warning("skipped %s: %s", annotation, error)
            continue
        boxes = np.array([box for _, box in objects], np.float32).reshape(-1, 4)
        # one pixel is what equal corners enclose
        kept = usable(boxes, size, root / "JPEGImages" / f"{name}.jpg", dropped, least=1)
        found[name] = [row for row, keep in zip(objects, kept, strict=True) if keep]
    report_dropped(listing, dropped)
    return found


def _size(tree: Any) -> tuple[float, float]:
    """The width and height that an annotation gives; 0 where it gives none."""
    return float(tree.findtext("size/width") or 0), float(tree.findtext("size/height") or 0)


def _object(node: ElementTree.Element) -> tuple[str, np.ndarray]:
    corners = [float(node.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax")]
    name = node.findtext("name", "").strip()
    if not name:
        raise ValueError("an object without a name")
    # VOC counts pixels from 1 and includes the last one
    return name, np.array(corners, np.float32) - np.array([1, 1, 0, 0], np.float32)


class VocData(DetectionData):
    """A Pascal VOC folder; `train`, `val` and `test` name its lists. The test split is val's where null."""

    def __init__(
        self, root: str, resolution: int, *, train: str, val: str, test: str | None = None, **settings: Any
    ) -> None:
        super().__init__(root, resolution, **settings)
        self.lists = {"train": train, "val": val, "test": test or val}

    @cached_property
    def _objects(self) -> dict[str, dict[str, Objects]]:
        return {name: read_voc(self.root, name) for name in dict.fromkeys(self.lists.values())}

    @property
    def labels(self) -> list[str]:
        names = {label for found in self._objects.values() for objects in found.values() for label, _ in objects}
        return sorted(names)

    def records(self, split: Split) -> list[Record]:
        label = {name: i for i, name in enumerate(self.labels)}
        return [
            record(
                self.root / "JPEGImages" / f"{name}.jpg",
                i,
                [(box, label[key], float(np.prod(box[2:] - box[:2])), False) for key, box in objects],
            )
            for i, (name, objects) in enumerate(self._objects[self.lists[split]].items())
        ]
