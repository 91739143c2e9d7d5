"""YOLO's txt files, with a row of class, centre, width and height (normalised by the image's) for each object."""

import logging
import os
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from data.annotated import Annotated, AnnotatedData, existing_path
from data.files import find_below, images_in, is_hidden, spellings
from data.image_file import image_size
from data.layouts.detection import TXT_FOLDERS, image_folder, label_places, yolo_names, yolo_splits, yolo_yaml
from data.layouts.folder import Folder
from data.rejects import left_out
from data.text import read_lines

log = logging.getLogger(__name__)

NAMES = ("classes.txt", ".names", "_darknet.labels")
MOST = 100_000  # classes
WRONG = "rows of labels that are not: class x y width height"
SCORED = "rows with a sixth value, which looks like a confidence (five are read): remove it to train on predictions"
Box = tuple[float, float, float, float]


class YoloData(AnnotatedData):
    """YOLO's format. The sources of splits are folders of images, or .txt lists of images. Class names come from
    data.yaml, a list of names beside the labels, or are class0, class1 and so on. An image without a txt file has no
    objects.
    """

    def __init__(self, root: str, resolution: int, *, yaml: str | None = None, **settings: Any) -> None:
        super().__init__(root, resolution, **settings)
        self.yaml = yaml

    @cached_property
    def content(self) -> tuple[dict[str, Any], Path | None]:
        return yolo_yaml(Folder(self.root), self.yaml)

    def find(self) -> dict[str, tuple[str, ...]]:
        folder, (content, path) = Folder(self.root), self.content
        found, named = yolo_splits(folder, content), yolo_names(folder, content)
        if not found:
            raise UserError(f"{self.root} has no images with txt files, as YOLO has them")
        if "val" in named and "train" not in named and not path:
            raise UserError(f"{self.root / named['val'][0]} lists val, but no list says what is train's")
        for split in named.keys() - found.keys():
            log.warning("%s: %s: %s is not there or has no images", path or self.root, split, ", ".join(named[split]))
        return {split: tuple(str(p.relative_to(self.root)) for p in paths) for split, paths in found.items()}

    @cached_property
    def names(self) -> list[str]:
        """The class names in a file; empty if there is no such file."""
        content, path = self.content
        names = content.get("names")
        if isinstance(names, dict):
            numbers = {int(key): name for key, name in names.items() if str(key).isdigit()}
            names = [numbers.get(i, f"class{i}") for i in range(min(max(numbers, default=-1) + 1, MOST))]
        if not isinstance(names, list):
            path, names = listed_names(Folder(self.root))
        if (word := next((name for name in names if name is None or isinstance(name, bool)), "")) != "":
            raise UserError(f"{path}: YAML reads a class name as {word}: write names such as yes and no in quotes")
        names = [str(name) for name in names]
        if twice := next((name for name, count in Counter(names).items() if count > 1), None):
            raise UserError(f"{path} has two classes of the name {twice!r}")
        return names

    @cached_property
    def labels(self) -> list[str]:
        if self.names:
            return self.names
        return super().labels

    def read(self, source: str) -> list[Annotated]:
        path = existing_path(self.root, source)
        if path.is_file():
            listed = [(name, find_below(self.root, name)) for name in read_lines(path) if name.strip()]
            left_out(path, "names without an image", [name for name, image in listed if not image], len(listed))
            images = [image for _, image in listed if image]
        else:
            folder = image_folder(Folder(path)) or Folder(path)
            images = images_in(folder.path)
        places = {folder: _labels(self.root, folder) for folder in {image.parent for image in images}}
        known = (next(filter(None, map(places[i.parent].get, spellings(i.stem))), None) for i in images)
        labels = [label if label and label.is_file() else None for label in known]
        if images and not any(labels):
            raise UserError(f"{path} has {len(images)} images but no txt files of labels")
        if without := labels.count(None):
            words = "%s: %d of %d images have no txt file and count as images without objects"
            log.info(words, path, without, len(images))
        wrong: dict[str, list[str]] = {WRONG: [], SCORED: []}
        found = [self._annotated(image, label, wrong) for image, label in zip(images, labels, strict=True)]
        boxes = [(box, image.size) for image in found for box in image.boxes]
        far = sum(box[2] > 2 * width and box[3] > 2 * height for box, (width, height) in boxes)
        if 2 * far > len(boxes):
            raise UserError(
                f"{next(filter(None, labels))}: most boxes have values far over 1, as if they were pixels; YOLO's "
                "coordinates are normalised: divide them by the image's width and height"
            )
        total = sum(len(image.names) for image in found) + sum(map(len, wrong.values()))
        for kind, rows in wrong.items():
            left_out(path, kind, rows, total)
        return found

    def _annotated(self, image: Path, label: Path | None, wrong: dict[str, list[str]]) -> Annotated:
        """An image with its objects; rows that cannot be used are added to `wrong`, by kind."""
        rows = _rows(label, wrong, "kpt_shape" in self.content[0]) if label else []
        size = image_size(image) if rows else None
        if size is None:  # without objects, or unreadable
            return Annotated(image)
        for index, _ in rows:
            if index < 0 or (index >= len(self.names) and (self.names or index >= MOST)):
                known = f"the names are of {len(self.names)} classes, 0 to {len(self.names) - 1}" if self.names else ""
                raise UserError(f"{label} has an object of class {index}; {known or f'at most {MOST} are read'}")
        width, height = size
        boxes = [[x0 * width, y0 * height, x1 * width, y1 * height] for _, (x0, y0, x1, y1) in rows]
        names = [self.names[index] if self.names else f"class{index}" for index, _ in rows]
        return Annotated(image, names, boxes, size=(float(width), float(height)))


def listed_names(root: Folder) -> tuple[Path | None, list[str]]:
    """The list of class names in a folder, beside its labels or those of a split, and its names; none if there is none.

    Raises:
        UserError: lists differ; one may be the beginning of another.
    """
    folders = [root, *root.named(*TXT_FOLDERS)]
    splits = [folder.folders[name] for folder in folders for name in folder.split_folders().values()]
    folders += [inner for split in splits for inner in (split, *split.named(*TXT_FOLDERS))]
    paths = [folder.path / name for folder in folders for name in folder.files(*NAMES, complete=True)]
    lists = {path: [line.strip() for line in read_lines(path) if line.strip()] for path in paths}
    longest = max(lists, key=lambda path: len(lists[path]), default=None)
    if longest is None:
        return None, []
    names = lists[longest]
    if other := next((path for path, own in lists.items() if own != names[: len(own)]), None):
        raise UserError(f"{longest} and {other} have different class names: keep the one that the labels follow")
    return longest, names


def _labels(root: Path, images: Path) -> dict[str, Path]:
    """The txt files of the images in a folder, by their names without suffix."""
    found: dict[str, Path] = {}
    for folder in reversed(label_places(root, images, TXT_FOLDERS)):
        names = (name for name in os.listdir(folder) if name.lower().endswith(".txt") and not is_hidden(name))
        found |= {name[:-4]: folder / name for name in names}
    return found


def _rows(label: Path, wrong: dict[str, list[str]], poses: bool) -> list[tuple[int, Box]]:
    """Class and box (xyxy, normalised to 0 to 1) of each object; for a polygon, the box around it. With
    `poses`, the keypoints after the box are left out: they would look like a polygon.
    """
    rows = []
    for number, line in enumerate(read_lines(label), start=1):
        words = line.split()
        try:
            index, values = float(words[0]) if words else 0.0, [float(word) for word in words[1:]]
            if not index.is_integer():
                raise ValueError
            values = values[:4] if poses else values
        except ValueError:
            values = [0.0]
        if len(values) == 4:
            x, y, width, height = values
            rows.append((int(index), (x - width / 2, y - height / 2, x + width / 2, y + height / 2)))
        elif len(values) >= 6 and len(values) % 2 == 0:
            across, down = values[::2], values[1::2]
            rows.append((int(index), (min(across), min(down), max(across), max(down))))
        elif words:
            kind = SCORED if len(values) == 5 and 0 <= values[4] <= 1 else WRONG
            wrong[kind].append(f"{label}, line {number}")
    return rows
