"""CelebA's lists (Liu et al. 2015): .txt, as its authors publish them, or Kaggle's .csv. Nothing here needs torch."""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np

from backbones.errors import UserError
from data.rejects import Rejects
from data.text import read_lines

log = logging.getLogger(__name__)

VALUES = {"1": 1, "0": 0, "-1": 0}
PARTS = {"0": "train", "1": "val", "2": "test"}
# The folders of the attributes, the splits and the images, and the lists' suffix: in one folder, and as on the drive.
LAYOUTS = ((".", ".", ".", ".txt"), (".", ".", ".", ".csv"), ("Anno", "Eval", "Img", ".txt"))


class CelebA(NamedTuple):
    """Two lists and the folder of images."""

    attributes: Path
    splits: Path
    images: Path

    @property
    def complete(self) -> bool:
        """Whether these are files of CelebA. A .csv alone may be another's; without its splits, it is only a table."""
        there = self.attributes.is_file() and self.images.is_dir()
        return there and (self.attributes.suffix == ".txt" or self.splits.is_file())


def celeba_files(root: Path) -> CelebA:
    """The files of CelebA in a folder; those of .txt if there are none. Some archives have the images' folder twice."""
    layouts = []
    for attributes, splits, images, suffix in LAYOUTS:
        folder = root / images / "img_align_celeba"
        folder = inner if (inner := folder / folder.name).is_dir() else folder
        lists = root / attributes / f"list_attr_celeba{suffix}", root / splits / f"list_eval_partition{suffix}"
        layouts.append(CelebA(*lists, folder))
    return next((files for files in layouts if files.attributes.is_file()), layouts[0])


def read_attributes(path: Path, folder: Path, max_bad: float) -> tuple[list[str], dict[Path, np.ndarray]]:
    """The names of A attributes, and the values (A,) int8, 1 or 0, of each image in `folder`. The list has a line of
    names, and a row of 1 and -1 for each image; before them, as .txt, the number of images.

    Raises:
        UserError: the file is absent or has no such header; or too many rows lack an image or values, have another
            value, or repeat an image.
    """
    lines = read_lines(path)
    if path.suffix == ".csv":
        (_, *names), *rows = [_values(line) for line in lines if line.strip()] or [[""]]
    else:
        count, head, *lines = [*lines, "", ""]
        names, rows = _values(head), [_values(line) for line in lines if line.strip()]
        if not count.strip().isdigit() or not names:
            raise UserError(f"{path} should start with the number of images and a line of attribute names")
        if int(count) != len(rows):
            log.warning("%s announces %s images and has %d", path, count.strip(), len(rows))
    rejects = Rejects(path)
    found: dict[Path, np.ndarray] = {}
    present = {image.name for image in folder.iterdir()} if folder.is_dir() else set()
    for name, *values in rows:
        wrong = next((v for v in values if v not in VALUES), None)
        if wrong is not None:
            rejects.add("with a value that is not 1, 0 or -1", f"{name}, {wrong}")
        elif len(values) != len(names):
            rejects.add(f"without {len(names)} values", f"{name}, {len(values)}")
        elif name not in present:
            rejects.add("without an image", str(folder / name))
        elif folder / name in found:
            rejects.add("that repeat an image", name)
        else:
            found[folder / name] = np.array([VALUES[v] for v in values], np.int8)
    rejects.report(len(rows), max_bad)
    return names, found


def read_splits(path: Path) -> dict[str, str]:
    """The split of each image, by its name.

    Raises:
        UserError: the file is absent, or a part is not 0, 1 or 2.
    """
    rows = [_values(line) for line in read_lines(path)[path.suffix == ".csv" :]]
    parts = {row[0]: row[1] for row in rows if len(row) > 1}
    if strange := next((name for name, part in parts.items() if part not in PARTS), None):
        raise UserError(f"{path}: {strange} is in part {parts[strange]}; it should be 0, 1 or 2")
    return {name: PARTS[part] for name, part in parts.items()}


def _values(line: str) -> list[str]:
    """The values of a row, between spaces or commas."""
    return line.replace(",", " ").split()
