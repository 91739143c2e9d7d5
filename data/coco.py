"""COCO json annotations beside folders of images, and drawn scenes in this format."""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from backbones.errors import UserError
from data.demo.scenes import write_scenes
from data.detection import DetectionData, Record, Split, report_dropped, usable
from data.files import find_below, images_in, spellings
from data.layouts.detection import coco_files
from data.layouts.folder import Folder
from data.rejects import left_out
from data.text import read_json

log = logging.getLogger(__name__)

Bbox = tuple[float, float, float, float]  # left, top, width, height
CocoObject = tuple[np.ndarray, int, float, bool]  # box, label, area, crowd
UNUSABLE = (TypeError, ValueError, OverflowError)


def read_coco(annotations: Path, images: Path) -> tuple[list[str], list[Record]]:
    """Label names in order of category ids, and one record for each image; unusable boxes are counted and dropped.

    Raises:
        UserError: the file is absent, not COCO json, has no categories, or an annotation names an unknown category or
            image.
    """
    content = _load(annotations)
    try:
        categories = {c["id"]: c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])}
        names = list(dict.fromkeys(categories.values()))  # categories of one name are one class
        for name in names:
            name.encode()  # fails for a lone surrogate, which cannot be written to a file
        objects = _objects(content, annotations, {category: names.index(name) for category, name in categories.items()})
        records = []
        dropped: Counter[str] = Counter()
        inside = _images_by_name(images)
        for i, image in enumerate(content["images"]):  # with new ids: the file's own may be of any type
            if not (name := image.get("file_name") or image.get("coco_url")):  # LVIS has the address only
                raise ValueError(f"image {image['id']} has no file_name")
            path, own = image_path(images, name, inside), objects[image["id"]]
            boxes = np.array([box for box, *_ in own], np.float64).reshape(-1, 4)
            size = float(image.get("width") or 0), float(image.get("height") or 0)
            kept = usable(boxes, size, path, dropped)
            records.append(record(path, i, [thing for thing, keep in zip(own, kept, strict=True) if keep], size))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{annotations} is not in COCO's format: {type(error).__name__}: {error}") from error
    if not names:
        raise UserError(f"{annotations} has no categories")
    report_dropped(annotations, dropped)
    return names, records


def image_path(images: Path, name: str, inside: Mapping[str, Sequence[Path]]) -> Path:
    """The path of an image in a folder, given its name in a JSON file, perhaps a path on another machine; `inside` are
    the images in the folder's sub-folders.

    Raises:
        UserError: several images have this name.
    """
    name = name.replace("\\", "/")  # as Windows writes paths
    if Path(name).name != name:
        return find_below(images, name) or images / Path(name).name
    found = next((inside[spelled] for spelled in spellings(name) if spelled in inside), None)
    if found is None:  # whether a file with an ASCII name exists is checked later, when it is read
        return images / name if name.isascii() else find_below(images, name) or images / name
    if len(found) > 1:
        raise UserError(f"{name} may be {found[0]} or {found[1]}: give each split an annotation file of its own")
    return found[0]


def _images_by_name(folder: Path) -> dict[str, list[Path]]:
    """The images in the sub-folders of a folder without images of its own."""
    found: dict[str, list[Path]] = {}
    if folder.is_dir() and not Folder(folder).images:
        for path in images_in(folder):
            found.setdefault(path.name, []).append(path)
    return found


def _objects(content: dict[str, Any], annotations: Path, label: dict[int, int]) -> dict[int, list[CocoObject]]:
    """The annotations of each image id; `label` is the index of each category id."""
    objects: dict[int, list[CocoObject]] = {image["id"]: [] for image in content["images"]}
    every, empty = content.get("annotations") or [], []
    for annotation in every:
        if annotation["category_id"] not in label:
            raise UserError(
                f"{annotations}: annotation {annotation.get('id')} has category_id "
                f"{annotation['category_id']}, which is not among the categories {list(label)}"
            )
        if annotation["image_id"] not in objects:
            raise UserError(
                f"{annotations}: annotation {annotation.get('id')} is of unknown image {annotation['image_id']}"
            )
        bbox = _numbers(annotation.get("bbox")) or _around(annotation.get("segmentation"))
        if bbox is None:
            empty.append(f"annotation {annotation.get('id')}")
            continue
        x, y, width, height = bbox
        box = np.array([x, y, x + width, y + height], np.float64)
        area = annotation.get("area")
        area = width * height if area in (None, "") else float(area)
        area = area if math.isfinite(area) else width * height
        crowd = bool(annotation.get("iscrowd"))
        objects[annotation["image_id"]].append((box, label[annotation["category_id"]], area, crowd))
    left_out(annotations, "annotations with neither a bbox nor polygons: export with boxes", empty, len(every))
    return objects


def _numbers(bbox: Any) -> Bbox | None:
    """The numbers of a bbox; None if it is empty or not four numbers."""
    try:
        x, y, width, height = map(float, bbox)
    except UNUSABLE:
        return None
    return x, y, width, height


def _around(polygons: Any) -> Bbox | None:
    """The bbox around an annotation's polygons; None if there are none, as where it has a mask."""
    try:
        points = np.concatenate([np.array(p, np.float64).reshape(-1, 2) for p in polygons if p])
    except UNUSABLE:
        return None
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return left, top, right - left, bottom - top


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"there is no annotation file {path}")
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is not in COCO's format: the top level is not an object")
    return content


def record(path: Path, image_id: int, objects: list[CocoObject], size: tuple[float, float] = (0.0, 0.0)) -> Record:
    """A record from its objects and its annotated size; without any it is a negative image."""
    boxes, labels, areas, crowd = zip(*objects, strict=True) if objects else ((), (), (), ())
    return Record(
        path,
        image_id,
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(labels, np.int64),
        np.array(areas, np.float64),
        np.array(crowd, bool),
        np.zeros(len(objects), bool),
        size,
    )


class CocoData(DetectionData):
    """COCO-format data; paths are relative to `root`. If train_json is null, the files in `root` are used; if there is
    none for val, a fifth of train's images is drawn for it. The test split is val's if it has no file.
    """

    def __init__(
        self,
        root: str,
        resolution: int,
        *,
        train_json: str | None = None,
        train_images: str | None = None,
        val_json: str | None = None,
        val_images: str | None = None,
        test_json: str | None = None,
        test_images: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(root, resolution, **settings)
        given = {"train_json": train_json, "train_images": train_images, "val_json": val_json}
        given |= {"val_images": val_images, "test_json": test_json, "test_images": test_images}
        self.given = {key: name for key, name in given.items() if name is not None}
        self._read = cache(read_coco)

    @cached_property
    def files(self) -> dict[str, tuple[Path, Path]]:
        """The JSON file and the folder of images of each split that has its own."""
        found = self.given if "train_json" in self.given else coco_files(Folder(self.root)) | self.given
        if "train_json" not in found:
            raise UserError(f"{self.root} has no JSON files in COCO's format: give data.train_json and the others")
        files: dict[str, tuple[Path, Path]] = {}
        for split in ("train", "val", "test"):
            if name := found.get(f"{split}_json"):
                files[split] = self.root / name, self.root / found.get(f"{split}_images", "")
        test = self._read(*files["test"])[1] if "test" in files and "test_json" not in self.given else None
        if test is not None and not any(len(record.boxes) for record in test):
            self.leave_out_test(files)
        return self.with_val(files)

    def read(self, split: Split) -> tuple[list[str], list[Record]]:
        annotations, images = self.files[split]
        if not images.is_dir():
            raise UserError(f"data.{split}_images: there is no folder {images}")
        return self._read(annotations, images)

    @cached_property
    def drawn(self) -> list[str]:
        """The split of each image if there is a file for train only."""
        labels, records = self.read("train")
        return self.split_images([r.path for r in records], [[labels[i] for i in r.labels] for r in records])

    def records(self, split: Split) -> list[Record]:
        if "val" not in self.files:
            wanted = split if split in self.drawn else "val"
            return [r for r, s in zip(self.read("train")[1], self.drawn, strict=True) if s == wanted]
        names, records = self.read(split if split in self.files else "val")
        if names == self.labels:
            return records
        used = {label for r in records for label in r.labels.tolist()}
        if strange := ", ".join(names[label] for label in sorted(used) if names[label] not in self.labels):
            raise UserError(
                f"{self.root}: the {split} split has other categories than train: {strange:.300}; rename them, or add "
                "them to train's file"
            )
        label = np.array([self.labels.index(name) if name in self.labels else -1 for name in names], np.int64)
        return [replace(r, labels=label[r.labels]) for r in records]

    @cached_property
    def labels(self) -> list[str]:
        """Train's categories; the other files may have them in another order, or lack some."""
        return self.read("train")[0]

    def use_labels(self, labels: list[str]) -> None:
        if {*self.read("val" if "val" in self.files else "train")[0]} <= {*labels}:  # train's file need not be read
            self.labels = labels
        super().use_labels(labels)


class DemoScenesData(CocoData):
    """Drawn scenes, generated in `root` on first use."""

    def __init__(self, root: str, resolution: int, *, train: int, val: int, seed: int, **settings: Any) -> None:
        files = {f"{s}_{k}": f"{s}{e}" for s in ("train", "val") for k, e in (("json", ".json"), ("images", ""))}
        super().__init__(root, resolution, **files, **settings)
        self.counts = {"train": train, "val": val, "seed": seed}

    def prepare(self) -> None:
        if not self.root.exists():
            log.info("generating %(train)d + %(val)d scenes", self.counts)
        write_scenes(self.root, **self.counts)
