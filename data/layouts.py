"""Recognises how a folder holds a data set, so that `data.root` alone is enough. Nothing here needs torch.

A layout is an option of conf/data with settings. Folders are looked at two levels deep, and their files by sample, so
that a data set of ImageNet's size is recognised in seconds.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from data.files import IMAGE_SUFFIXES

SAMPLE = 1000  # entries of a folder that are looked at
SPLIT_NAMES = {
    "train": ("train", "training", "train2017"),
    "val": ("val", "valid", "validation", "val2017", "dev"),
    "test": ("test", "testing", "eval"),
}


@dataclass(frozen=True)
class Layout:
    """An option of conf/data, the settings of it that the folder asks for, and what to tell the user about it."""

    option: str
    told: str
    settings: dict[str, Any] = field(default_factory=dict)


class Folder:
    """A folder's entries, of a large one a sample."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def entries(self) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.path) as entries:
                return [e for e in islice(entries, SAMPLE) if not e.name.startswith(".")]
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error.strerror}") from error

    @property
    def folders(self) -> dict[str, "Folder"]:
        return {e.name: Folder(Path(e.path)) for e in sorted(self.entries, key=lambda e: e.name) if e.is_dir()}

    def files(self, *suffixes: str) -> list[str]:
        """Names of the files that end so, in any case."""
        return sorted(e.name for e in self.entries if e.name.lower().endswith(suffixes) and not e.is_dir())

    @property
    def images(self) -> list[str]:
        return self.files(*IMAGE_SUFFIXES)

    def split_folders(self) -> dict[str, str]:
        """Names of the sub-folders that are splits by their names, of those that there are."""
        names = {name.lower(): name for name in self.folders}
        found = {split: [names[n] for n in known if n in names] for split, known in SPLIT_NAMES.items()}
        return {split: names[0] for split, names in found.items() if names}


def split_lists(names: Iterable[str]) -> dict[str, str]:
    """Which of some lists are the splits': train, or train and val together where there is a test split but no val."""
    known = set(names)
    if {"trainval", "test"} <= known and "val" not in known:
        return {"train": "trainval", "val": "test"}
    found = {split: name for split, options in SPLIT_NAMES.items() for name in options if name in known}
    if "val" not in found and "test" in found:
        found["val"] = found.pop("test")
    return found


def coco(folder: Folder) -> Iterator[Layout]:
    """COCO's own layout: annotations/instances_<split>.json beside a folder of images for each split."""
    files = folder.folders["annotations"].files(".json") if "annotations" in folder.folders else []
    if {"instances_train2017.json", "instances_val2017.json"} <= set(files):
        yield Layout("coco", "COCO 2017's layout")


def voc(folder: Folder) -> Iterator[Layout]:
    """Annotations/*.xml and JPEGImages/, with lists of splits in ImageSets/Main."""
    lists = folder.path / "ImageSets" / "Main"
    if {"Annotations", "JPEGImages"} <= folder.folders.keys() and lists.is_dir():
        splits = split_lists(name[:-4] for name in Folder(lists).files(".txt"))
        if {"train", "val"} <= splits.keys():
            yield Layout("voc", f"Pascal VOC with the lists {', '.join(splits.values())}", splits)


# By the file of shared settings that a family's options in conf/data begin with; the first layout that fits is taken.
FAMILIES: dict[str, tuple[Callable[[Folder], Iterator[Layout]], ...]] = {
    "_detection": (coco, voc),
    "_classification": (),
    "_faces": (),
    "_identities": (),
    "_geo": (),
}


def recognize(root: Path, family: str) -> Layout:
    """The layout of the data in `root`, of those that a family of conf/data reads.

    Raises:
        UserError: there is no such folder, or nothing in it that is known.
    """
    if not root.is_dir():
        raise UserError(f"data.root: there is no folder {root}")
    folder = Folder(root)
    for layout in (layout for find in FAMILIES.get(family, ()) for layout in find(folder)):
        return layout
    raise UserError(f"{root}: {_seen(folder)}; no layout of {family[1:]} data that is recognised: choose one by data=")


def _seen(folder: Folder) -> str:
    """What is in a folder, for an error."""
    folders, images = list(folder.folders), folder.images
    others = [name for name in folder.files("") if name not in images]
    parts = [
        f"folders {', '.join(folders[:5])}" if folders else "",
        f"{len(images)} images" if images else "",
        f"files {', '.join(others[:5])}" if others else "",
    ]
    return "it has " + "; ".join(p for p in parts if p) if any(parts) else "it is empty"
