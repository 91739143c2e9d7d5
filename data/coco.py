"""COCO json annotations beside folders of images."""

import logging
import math
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from backbones.errors import UserError
from data.detection import DetectionData, Record, Split, report_dropped, usable
from data.text import read_json

log = logging.getLogger(__name__)

Row = tuple[np.ndarray, int, float, bool]  # box, label, area, crowd


def read_coco(annotations: Path, images: Path) -> tuple[list[str], list[Record]]:
    """Label names by rising category id, and one record an image; unusable boxes are counted and dropped.

    Raises:
        UserError: the file is absent, not COCO json, has no categories, or an annotation names an unknown category or
            image.
    """
    content = _load(annotations)
    try:
        names = {c["id"]: c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])}
        for name in names.values():
            name.encode()  # half a surrogate pair cannot be written anywhere
        rows = _rows(content, annotations, {category: i for i, category in enumerate(names)})
        records = []
        dropped: Counter[str] = Counter()
        for i, image in enumerate(content["images"]):  # numbered anew: the file's own ids may be of any kind
            path, own = images / image["file_name"], rows[image["id"]]
            boxes = np.array([box for box, *_ in own], np.float32).reshape(-1, 4)
            kept = usable(boxes, (float(image.get("width") or 0), float(image.get("height") or 0)), path, dropped)
            records.append(record(path, i, [row for row, keep in zip(own, kept, strict=True) if keep]))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{annotations} is not in COCO's format: {type(error).__name__}: {error}") from error
    if not names:
        raise UserError(f"{annotations} has no categories")
    report_dropped(annotations, dropped)
    return list(names.values()), records


def _rows(content: dict[str, Any], annotations: Path, label: dict[int, int]) -> dict[int, list[Row]]:
    """The annotations of each image id; `label` is the index of each category id."""
    rows: dict[int, list[Row]] = {image["id"]: [] for image in content["images"]}
    for annotation in content.get("annotations", []):
        if annotation["category_id"] not in label:
            raise UserError(
                f"{annotations}: annotation {annotation.get('id')} has category_id "
                f"{annotation['category_id']}, which is not among the categories {list(label)}"
            )
        if annotation["image_id"] not in rows:
            raise UserError(
                f"{annotations}: annotation {annotation.get('id')} is of unknown image {annotation['image_id']}"
            )
        x, y, width, height = annotation["bbox"]
        with np.errstate(over="ignore"):  # becomes infinite, and is dropped
            box = np.array([x, y, x + width, y + height], np.float64).astype(np.float32)
        area = float(annotation.get("area", width * height))
        area = area if math.isfinite(area) else float(width * height)
        crowd = bool(annotation.get("iscrowd", 0))
        rows[annotation["image_id"]].append((box, label[annotation["category_id"]], area, crowd))
    return rows


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"there is no annotation file {path}")
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is not in COCO's format: the top level is not an object")
    return content


def record(path: Path, image_id: int, rows: list[Row]) -> Record:
    """A record from the rows of its objects; none make a negative."""
    boxes, labels, areas, crowd = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Record(
        path,
        image_id,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.int64),
        np.array(areas, np.float32),
        np.array(crowd, bool),
    )


class CocoData(DetectionData):
    """COCO-format data; paths are relative to `root`. The test split is val's where it names no files."""

    def __init__(
        self,
        root: str,
        resolution: int,
        *,
        train_json: str,
        train_images: str,
        val_json: str,
        val_images: str,
        test_json: str | None = None,
        test_images: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(root, resolution, **settings)
        self.files = {
            "train": (train_json, train_images),
            "val": (val_json, val_images),
            "test": (test_json or val_json, test_images or val_images),
        }
        self._read = cache(read_coco)

    def read(self, split: Split) -> tuple[list[str], list[Record]]:
        annotations, images = self.files[split]
        return self._read(self.root / annotations, self.root / images)

    def records(self, split: Split) -> list[Record]:
        labels, records = self.read(split)
        if labels != self.labels:
            raise UserError(f"{self.root}: the {split} split has other categories than val: {labels}")
        return records

    @property
    def labels(self) -> list[str]:
        return self.read("val")[0]
