"""Pascal VOC folders: Annotations/*.xml, ImageSets/Main/<split>.txt, JPEGImages/."""

import logging
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from backbones.errors import UserError
from data.coco import record
from data.detection import DetectionData, Record, Split

log = logging.getLogger(__name__)

Objects = list[tuple[str, np.ndarray]]


def read_voc(root: Path, split: str) -> dict[str, Objects]:
    """Objects (name, xyxy box) of each picture that ImageSets/Main/<split>.txt lists.

    Degenerate boxes and unreadable annotation files are counted, named and left out.

    Raises:
        UserError: the list is absent.
    """
    listing = root / "ImageSets" / "Main" / f"{split}.txt"
    if not listing.is_file():
        raise UserError(f"there is no list {listing}; data.root must be a Pascal VOC folder with that split")
    found: dict[str, Objects] = {}
    degenerate = 0
    # some lists of a single class have a second column
    for name in (line.split()[0] for line in listing.read_text().splitlines() if line.strip()):
        annotation = root / "Annotations" / f"{name}.xml"
        try:
            objects = [_object(node) for node in ElementTree.parse(annotation).iter("object")]
        except (OSError, ElementTree.ParseError, TypeError, ValueError) as error:
            log.warning("skipped %s: %s", annotation, error)
            continue
        # more than the one pixel that equal corners enclose
        found[name] = [(label, box) for label, box in objects if (box[2:] - box[:2] > 1).all()]
        degenerate += len(objects) - len(found[name])
    if degenerate:
        log.warning("%s: dropped %d boxes without area", listing, degenerate)
    return found


def _object(node: ElementTree.Element) -> tuple[str, np.ndarray]:
    corners = [float(node.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax")]
    # VOC counts pixels from 1 and includes the last one
    return node.findtext("name", "").strip(), np.array(corners, np.float32) - np.array([1, 1, 0, 0], np.float32)


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
