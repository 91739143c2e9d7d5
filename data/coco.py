"""COCO json annotations beside folders of pictures."""

import json
import logging
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from backbones.errors import UserError
from data.detection import DetectionData, Record, Split

log = logging.getLogger(__name__)

Row = tuple[np.ndarray, int, float, bool]  # box, label, area, crowd


def read_coco(annotations: Path, images: Path) -> tuple[list[str], list[Record]]:
    """Label names by rising category id, and one record a picture; degenerate boxes are counted and dropped.

    Raises:
        UserError: the file is absent, not COCO json, or an annotation names an unknown category or picture.
    """
    content = _load(annotations)
    try:
        names = {c["id"]: c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])}
        rows: dict[int, list[Row]] = {image["id"]: [] for image in content["images"]}
        label = {category: i for i, category in enumerate(names)}
        degenerate = 0
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
            if width <= 0 or height <= 0:
                degenerate += 1
                continue
            box = np.array([x, y, x + width, y + height], np.float32)
            rows[annotation["image_id"]].append(
                (
                    box,
                    label[annotation["category_id"]],
                    float(annotation.get("area", width * height)),
                    bool(annotation.get("iscrowd", 0)),
                )
            )
        # numbered anew: the file's own ids may be of any kind
        records = [
            record(images / image["file_name"], i, rows[image["id"]]) for i, image in enumerate(content["images"])
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{annotations} is not in COCO's format: {type(error).__name__}: {error}") from error
    if degenerate:
        log.warning("%s: dropped %d boxes without area", annotations, degenerate)
    return list(names.values()), records


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"there is no annotation file {path}") from error
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not json: {error}") from error
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
