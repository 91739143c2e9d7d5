"""Stanford Dogs (Khosla et al. 2011) in its official layout, and a noisy web set of the same breeds.

Its images come from ImageNet: a backbone that was trained on ImageNet has seen the test images.
"""

import io
import itertools
import logging
import math
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from backbones.errors import UserError, first_line
from backbones.files import check_regular
from data.base import Split
from data.boxes import Box
from data.classification import ClassificationData, Sample
from data.demo.dogs import write_dogs
from data.files import escapes
from data.folders import images_by_folder
from data.text import read_json

log = logging.getLogger(__name__)


def read_list(path: Path) -> list[str]:
    """The file names, below Images/, of a train_list.mat or test_list.mat.

    Raises:
        UserError: it is absent, not a .mat file, or lacks the lists.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        check_regular(path)
        content = loadmat(io.BytesIO(path.read_bytes()))  # with a path, its error for an absent file is misleading
        names = [str(row[0].item()) for row in content["file_list"]]
        folders = {int(label): name.split("/")[0] for label, name in zip(content["labels"].flat, names, strict=True)}
    except FileNotFoundError as error:
        raise UserError(f"there is no list {path}; it is in lists.tar of Stanford Dogs") from error
    except KeyError as error:
        raise UserError(f"{path} has no variable {error}; it should hold file_list and labels") from error
    except (OSError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError, MatReadError) as error:
        raise UserError(f"{path} is not a .mat list of Stanford Dogs: {first_line(error)}") from error
    if sorted(folders.values()) != [folders[label] for label in sorted(folders)]:
        raise UserError(f"{path}: its labels do not follow the order of the folders' names")
    return names


def read_box(path: Path) -> Box | None:
    """The box around all objects of an annotation, in pixels; None if it cannot be read."""
    try:
        check_regular(path)
        boxes = [
            [float(node.findtext(key, "")) for key in ("xmin", "ymin", "xmax", "ymax")]
            for node in ElementTree.parse(path).iter("bndbox")
        ]
        left, top, right, bottom = zip(*boxes, strict=True)
        box = min(left), min(top), max(right), max(bottom)
        if not all(map(math.isfinite, itertools.chain(*boxes))) or box[0] >= box[2] or box[1] >= box[3]:
            raise ValueError(f"{box} is not a box")
        return box
    # LookupError: an unknown encoding
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        log.warning("%s: no box, the whole image is used: %s", path, error)
        return None


class DogsData(ClassificationData):
    """Stanford Dogs; `train` is its own list of images or the noisy `web` folder, and val is the test list.

    `web` has a folder per breed; `web_labels` is a JSON object from the folders' names to those in Images/ (null if
    they are the same). With `box` only the annotated dog is used.
    """

    note: str | None = (
        "Stanford Dogs' images come from ImageNet: a backbone that was trained on ImageNet has seen the test images"
    )

    def __init__(
        self,
        root: str,
        resolution: int,
        *,
        train: Literal["list", "web"] = "list",
        box: bool = False,
        web: str = "Web",
        web_labels: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(root, resolution, **settings)
        self.train, self.box = train, box
        self.web, self.web_labels = web, web_labels
        self.left_out: set[Path] = set()

    @cached_property
    def folders(self) -> list[str]:
        """The classes' folders, in the order of their labels."""
        folder = self.root / "Images"
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}; it is in images.tar of Stanford Dogs")
        return sorted(p.name for p in folder.iterdir() if p.is_dir())

    @property
    def labels(self) -> list[str]:
        return [name.partition("-")[2] or name for name in self.folders]

    def samples(self, split: Split) -> list[Sample]:
        if split == "train" and self.train == "web":
            return [s for s in self.web_samples() if s.path not in self.left_out]
        label = {name: i for i, name in enumerate(self.folders)}
        names = read_list(self.root / f"{'train' if split == 'train' else 'test'}_list.mat")
        if strange := next((n for n in names if n.split("/")[0] not in label or escapes(n)), None):
            raise UserError(f"the {split} list names {strange}, but Images has no such folder")
        there = {f"{folder}/{p.name}" for folder in self.folders for p in (self.root / "Images" / folder).iterdir()}
        absent = [name for name in names if name not in there]
        if len(absent) > self.max_bad * len(names):
            raise UserError(f"{len(absent)} of {len(names)} images of the {split} list are not there: {absent[0]}, ...")
        return [Sample(self.root / "Images" / n, label[n.split("/")[0]], self._box(n)) for n in names]

    def _box(self, name: str) -> Box | None:
        return read_box(self.root / "Annotation" / name.removesuffix(".jpg")) if self.box else None

    def web_samples(self) -> list[Sample]:
        """The images of the web set with the classes of their folders."""
        found = images_by_folder(self.root / self.web)
        meaning = self._read_label_map() if self.web_labels else {name: name for name in found}
        if unknown := sorted(found.keys() - meaning.keys()):
            raise UserError(f"{self.web_labels}: the folder {unknown[0]!r} of {self.web} is not in it")
        label = {name: i for i, name in enumerate(self.folders)}
        if absent := sorted(meaning[name] for name in found if meaning[name] not in label):
            raise UserError(f"{self.web_labels or self.web} names {absent[0]!r}, but Images has no such class")
        return [Sample(path, label[meaning[name]]) for name, paths in found.items() for path in paths]

    def _read_label_map(self) -> dict[str, str]:
        path = self.root / str(self.web_labels)
        content = read_json(path)
        if not isinstance(content, dict) or not all(isinstance(v, str) for v in content.values()):
            raise UserError(f"label map {path} should be a JSON object from folder names to class names")
        return content

    def leave_out(self, paths: Collection[Path]) -> None:
        """Excludes these images of the web set from training."""
        self.left_out = set(paths)
        self.datasets.pop("train", None)


class DemoDogsData(DogsData):
    """The demo: drawn dogs in the same layout, generated in `root` on first use."""

    note = None

    def prepare(self) -> None:
        if not self.root.exists():
            log.info("generating images of dogs of twelve breeds")
        write_dogs(self.root)
