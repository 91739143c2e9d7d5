"""A folder of images per class, one such tree per split: torchvision's ImageFolder layout."""

from functools import cached_property
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from data.base import Split
from data.classification import ClassificationData, Sample
from data.files import IMAGE_SUFFIXES, images_in, is_hidden
from data.rejects import left_out


def images_by_folder(folder: Path, train: bool = True) -> dict[str, list[Path]]:
    """The images in each sub-folder of `folder` that has some, classes and images in order of their names. Empty ones,
    and images beside them, are reported only for train: other splits may lack a class.

    Raises:
        UserError: the folder does not exist or has fewer than two classes, or (unless it is train's) none.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; it should hold a folder of images for each class")
    inside = [path for path in sorted(folder.iterdir()) if not is_hidden(path.name)]
    found = {path.name: images_in(path) for path in inside if path.is_dir()}
    filled = {name: images for name, images in found.items() if images}
    least = 2 if train else 1
    if len(filled) < least:
        names = ", ".join(filled)
        raise UserError(f"{folder} has {len(filled)} class folders ({names}) with images; at least {least} are needed")
    if train:
        empty = [name for name in found if name not in filled]
        left_out(folder, "class folders, which have no images", empty, len(found))
        loose = [path.name for path in inside if path.suffix.lower() in IMAGE_SUFFIXES and path.name not in found]
        total = len(loose) + sum(map(len, filled.values()))
        left_out(folder, "images, which are in no class folder: move them into one", loose, total)
    return filled


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
        return images_by_folder(self.root / str(self.folders["train"]))

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
        if split != "train" and (folder := self.folders[split]):
            return images_by_folder(self.root / folder, train=False)
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
