"""ImageNet (ILSVRC 2012) in the layout of its archives and its development kit."""

import io
from functools import cached_property
from pathlib import Path
from typing import Any

from backbones.errors import UserError, first_line
from backbones.files import check_regular
from data.base import Split
from data.classification import ClassificationData, Sample
from data.files import IMAGE_SUFFIXES
from data.folders import images_by_folder
from data.text import read_lines


def read_synsets(path: Path) -> dict[int, tuple[str, str]]:
    """The wnid and first word of each class, by its number, from the development kit's meta.mat.

    Raises:
        UserError: it is absent or not that file.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        check_regular(path)
        rows = loadmat(io.BytesIO(path.read_bytes()), squeeze_me=True)["synsets"]
        found = [(int(r["ILSVRC2012_ID"]), str(r["WNID"]), str(r["words"]), int(r["num_children"])) for r in rows]
    except FileNotFoundError as error:
        raise UserError(f"there is no {path}; it is in ILSVRC2012_devkit_t12.tar.gz of ImageNet") from error
    except (OSError, KeyError, ValueError, TypeError, IndexError, NotImplementedError, MatReadError) as error:
        raise UserError(f"{path} is not ImageNet's list of synsets: {first_line(error)}") from error
    # synsets with children are superclasses
    return {number: (wnid, words.split(",")[0]) for number, wnid, words, children in found if not children}


class ImageNetData(ClassificationData):
    """`train` has a folder per wnid. So has `val`, or the development kit's ground truth has a line with the class of
    each of its images, sorted by name. Classes are sorted by wnid, as is usual.
    """

    def __init__(self, root: str, resolution: int, *, train: str, val: str, devkit: str, **settings: Any) -> None:
        super().__init__(root, resolution, **settings)
        self.train, self.val, self.devkit = self.root / train, self.root / val, self.root / devkit / "data"

    @cached_property
    def synsets(self) -> dict[int, tuple[str, str]]:
        return read_synsets(self.devkit / "meta.mat")

    @cached_property
    def wnids(self) -> list[str]:
        return sorted(wnid for wnid, _ in self.synsets.values())

    @property
    def labels(self) -> list[str]:
        names = dict(self.synsets.values())
        return [f"{wnid} {names[wnid]}" for wnid in self.wnids]

    def samples(self, split: Split) -> list[Sample]:
        folder = self.train if split == "train" else self.val
        if split != "train" and folder.is_dir() and not any(p.is_dir() for p in folder.iterdir()):
            return self._flat()
        label = {wnid: i for i, wnid in enumerate(self.wnids)}
        found = images_by_folder(folder)
        if strange := sorted(found.keys() ^ label.keys()):
            where = "is not a synset of" if strange[0] in found else "is missing, but in"
            raise UserError(f"{folder / strange[0]} {where} {self.devkit / 'meta.mat'}")
        return [Sample(path, label[wnid]) for wnid, paths in found.items() for path in paths]

    def _flat(self) -> list[Sample]:
        truth = self.devkit / "ILSVRC2012_validation_ground_truth.txt"
        label = {number: self.wnids.index(wnid) for number, (wnid, _) in self.synsets.items()}
        paths = sorted(p for p in self.val.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        try:
            classes = [label[int(line)] for line in read_lines(truth) if line.strip()]
        except (ValueError, KeyError) as error:
            raise UserError(f"{truth} cannot be read: {error} is not the number of a class") from error
        if len(paths) != len(classes):
            raise UserError(f"{self.val} has {len(paths)} images, {truth} {len(classes)} lines")
        return [Sample(path, i) for path, i in zip(paths, classes, strict=True)]
