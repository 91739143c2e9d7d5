"""Images of people: a folder for each, LFW's pairs (Huang et al. 2007), or unlabelled images for distillation."""

import logging
import random
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from backbones.errors import UserError
from data.base import SPLITS, Split, SuiteData
from data.classification import ClassificationBatch, ClassificationData, ImageSet, Sample, collate
from data.faces import UNKNOWN, DrawnFaces, images_below
from data.files import is_hidden
from data.folders import images_by_folder
from data.text import read_lines

log = logging.getLogger(__name__)


class Pairs(NamedTuple):
    """Pairs of images (P, 2) by their rows in the split, whether both show one person (P,), and the fold (P,)."""

    rows: np.ndarray
    same: np.ndarray
    folds: np.ndarray

    def of(self, kept: np.ndarray) -> "Pairs":
        """The pairs for which `kept` (P,) is true."""
        return Pairs(self.rows[kept], self.same[kept], self.folds[kept])


def read_pairs(path: Path, samples: list[Sample]) -> Pairs:
    """LFW's pairs.txt: the numbers of folds and of pairs per fold, then rows `name a b` (one person) or `name a name b`
    (two people); image a is the file name/name_000a.

    Raises:
        UserError: it is absent or not of that form, or names a person or image that is not among the samples.
    """
    head, *lines = [*read_lines(path), ""]
    numbers = head.split()
    if len(numbers) != 2 or not all(n.isdecimal() for n in numbers):
        raise UserError(f"{path} should start with the number of folds and of pairs in each")
    count, size = map(int, numbers)
    row = {(s.path.parent.name, s.path.stem): i for i, s in enumerate(samples)}
    people = {person for person, _ in row}

    def find(line: int, person: str, number: str) -> int:
        if person not in people:
            raise UserError(f"{path}, line {line}: there are no images of {person}")
        if not number.isdecimal() or (person, f"{person}_{int(number):04d}") not in row:
            raise UserError(f"{path}, line {line}: {person} has no image number {number}")
        return row[person, f"{person}_{int(number):04d}"]

    rows, same = [], []
    for line, text in enumerate(lines, start=2):
        words = text.split()
        if len(words) not in (0, 3, 4):
            raise UserError(f"{path}, line {line}: should be `name a b` or `name a name b`, not {text[:60]!r}")
        if words:
            first, second = words[:2], (words[0], words[2]) if len(words) == 3 else words[2:]
            rows.append((find(line, *first), find(line, *second)))
            same.append(len(words) == 3)
    if len(rows) != 2 * count * size or count < 2:
        raise UserError(f"{path} announces {count} folds of {size} + {size} pairs and has {len(rows)} pairs")
    return Pairs(np.array(rows), np.array(same), np.arange(len(rows)) // (2 * size))


class People(Dataset[list[dict[str, Any]]]):
    """An item is `images_per_person` images of one person, drawn anew each time; some repeat if there are fewer."""

    def __init__(self, images: ImageSet, images_per_person: int) -> None:
        self.images, self.images_per_person = images, images_per_person
        self.rows: dict[int, list[int]] = {}
        for row, sample in enumerate(images.samples):
            self.rows.setdefault(int(sample.label), []).append(row)
        self.slots = [
            person for person, rows in self.rows.items() for _ in range(max(1, len(rows) // images_per_person))
        ]

    def __len__(self) -> int:
        return len(self.slots)

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        rows = self.rows[self.slots[index]]
        chosen = random.sample(rows, min(self.images_per_person, len(rows)))
        return [self.images[row] for row in [*chosen, *random.choices(rows, k=self.images_per_person - len(chosen))]]


def collate_people(samples: Sequence[Any]) -> ClassificationBatch:
    """Batches images, or people with several images each."""
    return collate([s for item in samples for s in item] if isinstance(samples[0], list) else samples)


class IdentityData(ClassificationData):
    """`root`/{train,val,test}/<person>/**, test is val if null; or a `train` of images without identities.

    Without val, a fifth of train's people is drawn for it. `pairs` is LFW's pairs.txt for val and test. In training,
    batches have `images_per_person` images of each person. Labels are numbers, not people's names.

    Raises:
        UserError: a folder is absent or has fewer than two people.
    """

    def __init__(
        self,
        root: str,
        resolution: int,
        *,
        train: str,
        val: str | None,
        test: str | None = None,
        pairs: str | None = None,
        images_per_person: int = 1,
        min_scale: float = 0.6,
        center_crop: float | None = 1.0,
        cache_images: bool | Literal["auto"] = "auto",
        **settings: Any,
    ) -> None:
        crops: dict[str, Any] = {"min_scale": min_scale, "center_crop": center_crop, "cache_images": cache_images}
        super().__init__(root, resolution, **crops, **settings)
        self.folders: dict[Split, str | None] = {"train": train, "val": val, "test": test or val}
        self.pairs_file, self.images_per_person = pairs, images_per_person

    @cached_property
    def _all(self) -> dict[str, list[Path]]:
        """The people of the folder `train` and their images; empty if the images are not in folders of people."""
        folder = self.root / str(self.folders["train"])
        if folder.is_dir() and not any(p.is_dir() and not is_hidden(p.name) for p in folder.iterdir()):
            return {}
        return images_by_folder(folder)

    @cached_property
    def _drawn(self) -> dict[str, str]:
        """The split of each person in the folder `train`; empty if val is a folder."""
        if self.folders["val"]:
            return {}
        if not self._all:
            raise UserError(f"{self.root / str(self.folders['train'])} has no folders of people from which to draw val")
        # val needs pairs of images of one person, so it gets its share of people with several images
        return self.draw_val(list(self._all), [len(paths) > 1 for paths in self._all.values()])

    def people(self, split: Split) -> dict[str, list[Path]]:
        """The people of a split and their images; empty if the images are not in folders of people."""
        if split != "train" and (folder := self.folders[split]):
            return images_by_folder(self.root / folder, train=False)
        part = "train" if split == "train" else "val"
        return {name: paths for name, paths in self._all.items() if self._drawn.get(name, "train") == part}

    @property
    def labels(self) -> list[str]:
        """A number for each person of the training split, to keep their names private."""
        return [str(i) for i in range(len(self.people("train")))]

    def samples(self, split: Split) -> list[Sample]:
        found = self.people(split)
        if not found:
            return [Sample(path, UNKNOWN) for path in images_below(self.root / str(self.folders[split]))]
        return [Sample(path, i) for i, paths in enumerate(found.values()) for path in paths]

    def build_dataset(self, split: Split) -> Dataset:  # type: ignore[override]  # of people, not of images
        images = super().build_dataset(split)
        if split != "train" or self.images_per_person == 1:
            return images
        if not self._all:
            raise UserError(
                f"{self.root / str(self.folders['train'])} has no folders of people; set data.images_per_person=1"
            )
        return People(images, self.images_per_person)

    def check(self) -> None:
        super().check()
        for split in SPLITS:
            self.pairs(split)
        for split in SPLITS[1:]:
            counts = [len(paths) for paths in self.people(split).values()]
            if len(counts) < 2 or max(counts) < 2:
                raise UserError(
                    f"{self.root}: the {split} split has {len(counts)} people with at most {max(counts, default=0)} "
                    "images; it needs two, and two images of one of them"
                )
        train, val = self.people("train").keys(), self.people("val").keys()
        if both := train & val:
            text = "%s: %d of %d people of val are in train too: validation measures people the network has seen"
            log.warning(text, self.root, len(both), len(val))

    def images_per_item(self, split: Split) -> int:
        return self.images_per_person if split == "train" else 1

    def pairs(self, split: Split) -> Pairs | None:
        """LFW's pairs of a split, if given."""
        if self.pairs_file is None or split == "train":
            return None
        return read_pairs(self.root / self.pairs_file, self.samples(split))

    sample_sources = SuiteData.sample_sources  # refused: shards have no people
    collate = staticmethod(collate_people)


class DemoIdentityData(DrawnFaces, IdentityData):
    """The demo of identities."""
