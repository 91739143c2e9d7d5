"""A folder of images per class, one such tree per split: torchvision's ImageFolder layout."""

from functools import cached_property
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from data.base import Split
from data.classification import ClassificationData, Sample
from data.files import images_in, is_hidden


def class_folders(folder: Path) -> dict[str, list[Path]]:
    """The images in each sub-folder of `folder`, classes and images in order of their names.

    Raises:
        UserError: the folder does not exist or has fewer than two classes, or one of them is empty.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; it should hold a folder of images for each class")
    found = {sub.name: images_in(sub) for sub in sorted(folder.iterdir()) if sub.is_dir() and not is_hidden(sub.name)}
    if len(found) < 2:
        raise UserError(f"{folder} has {len(found)} class folders ({', '.join(found)}); at least 2 are needed")
    if empty := [name for name, images in found.items() if not images]:
        raise UserError(f"{folder / empty[0]} has no images ({len(empty)} of {len(found)} classes are empty)")
    return found


class FoldersData(ClassificationData):
    """`root`/{train,val,test}/<class>/**; `train`, `val` and `test` name the folders. Test is val if null; without
    val, a fifth of each class of train is drawn for it.
    """

    def __init__(
        self, root: str, resolution: int, *, train: str, val: str | None, test: str | None = None, **settings: Any
    ) -> None:
        super().__init__(root, resolution, **settings)
        self.folders = {"train": train, "val": val, "test": test or val}

    @cached_property
    def _all(self) -> dict[str, list[Path]]:
        return class_folders(self.root / str(self.folders["train"]))

    @property
    def labels(self) -> list[str]:
        return list(self._all)

    @cached_property
    def _drawn(self) -> dict[str, str]:
        """The split of each image of train, by its path below root; empty if val is a folder."""
        if self.folders["val"]:
            return {}
        keys = {self._key(path): name for name, paths in self._all.items() for path in paths}
        return self.draw_val(list(keys), list(keys.values()))

    def _key(self, path: Path) -> str:
        """A path below `root`, the same on all systems."""
        return path.relative_to(self.root).as_posix()

    def images(self, split: Split) -> dict[str, list[Path]]:
        """The images of each class."""
        if folder := None if split == "train" else self.folders[split]:
            return class_folders(self.root / folder)
        if not self._drawn:
            return self._all
        part = "train" if split == "train" else "val"
        return {n: [p for p in paths if self._drawn[self._key(p)] == part] for n, paths in self._all.items()}

    def samples(self, split: Split) -> list[Sample]:
        found = self.images(split)
        if strange := sorted(found.keys() - self._all.keys()):
            raise UserError(f"{self.root / str(self.folders[split])} has a class that train lacks: {strange[0]}")
        label = {name: i for i, name in enumerate(self.labels)}
        return [Sample(path, label[name]) for name, paths in found.items() for path in paths]
