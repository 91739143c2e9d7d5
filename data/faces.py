"""Images of faces with attributes: CelebA (Liu et al. 2015) and folders without labels."""

import hashlib
import logging
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from backbones.errors import UserError
from data.base import Split
from data.celeba import celeba_files, read_attributes, read_splits
from data.classification import ClassificationData, Sample
from data.demo.faces import write_faces
from data.files import images_in
from data.splits import given_splits

log = logging.getLogger(__name__)

UNKNOWN = -1


def images_below(folder: Path) -> list[Path]:
    """All images in a folder and its sub-folders.

    Raises:
        UserError: there are none.
    """
    found = images_in(folder)
    if not found:
        raise UserError(f"there are no images in {folder}")
    return found


class FacesData(ClassificationData):
    """Images with rows of attributes as labels; a format gives `labels` and `table`.

    A fixed fraction `labelled_fraction` of the training images keep their labels; `unlabelled` says whether the others
    are dropped or train without labels. The images in `unlabelled_folder` are added without labels.
    """

    def __init__(
        self,
        root: str,
        resolution: int,
        *,
        labelled_fraction: float = 1.0,
        unlabelled: Literal["drop", "keep"] = "drop",
        unlabelled_folder: str | None = None,
        min_scale: float = 0.6,
        center_crop: float | None = 1.0,
        cache_images: bool | Literal["auto"] = "auto",
        **settings: Any,
    ) -> None:
        crops: dict[str, Any] = {"min_scale": min_scale, "center_crop": center_crop, "cache_images": cache_images}
        super().__init__(root, resolution, **crops, **settings)
        self.labelled_fraction, self.unlabelled = labelled_fraction, unlabelled
        self.unlabelled_folder = unlabelled_folder

    def table(self, split: Split) -> dict[Path, np.ndarray]:
        """The images of a split and their attributes."""
        raise NotImplementedError("a data format defines table")

    def samples(self, split: Split) -> list[Sample]:
        samples = [Sample(path, values) for path, values in self.table(split).items()]
        if split != "train":
            return samples
        unknown = np.full(len(self.labels), UNKNOWN, np.int8)
        chosen = np.zeros(len(samples), bool)
        order = np.random.default_rng(0).permutation(len(samples))
        chosen[order[: round(self.labelled_fraction * len(samples))]] = True
        if self.unlabelled == "drop":
            samples = [s for s, c in zip(samples, chosen, strict=True) if c]
        else:
            samples = [s if c else Sample(s.path, unknown) for s, c in zip(samples, chosen, strict=True)]
        more = images_below(self.root / self.unlabelled_folder) if self.unlabelled_folder else []
        return samples + [Sample(path, unknown) for path in more]


class CelebAData(FacesData):
    """CelebA as published, in `root`."""

    @cached_property
    def _table(self) -> tuple[list[str], dict[Path, np.ndarray]]:
        files = celeba_files(self.root)
        return read_attributes(files.attributes, files.images, self.max_bad)

    @cached_property
    def _splits(self) -> dict[str, str]:
        return read_splits(celeba_files(self.root).splits)

    @property
    def labels(self) -> list[str]:
        return self._table[0]

    def table(self, split: Split) -> dict[Path, np.ndarray]:
        return {p: v for p, v in self._table[1].items() if self._splits.get(p.name) == split}


class FaceFolderData(FacesData):
    """Images without labels, anywhere below `root`. Folders that are named after splits are the splits. If there are
    none, about a fraction `val` of the images, at least one, is for validation. It is chosen by the images' names, so
    that images that are added later do not move others.

    The attributes' names are `attributes`, or else those of the task's teacher.
    """

    def __init__(
        self,
        root: str,
        resolution: int,
        *,
        val: float,
        attributes: Sequence[str] | None,
        **settings: Any,
    ) -> None:
        super().__init__(root, resolution, **settings)
        self.val, self.attributes = val, attributes

    def use_labels(self, labels: list[str]) -> None:
        self.attributes = self.attributes or labels  # the model's, unless given
        super().use_labels(labels)

    @cached_property
    def labels(self) -> list[str]:
        if not self.attributes:
            raise UserError("images without labels need a teacher, or data.attributes=[names] to be predicted")
        return list(self.attributes)

    def table(self, split: Split) -> dict[Path, np.ndarray]:
        unknown = np.full(len(self.labels), UNKNOWN, np.int8)
        wanted = split if split in self._splits.values() else "val"  # test is val's if there is none
        return {path: unknown for path, own in self._splits.items() if own == wanted}

    @cached_property
    def _splits(self) -> dict[Path, str | None]:
        """The split of each image: by its folders, or else drawn."""
        paths = images_below(self.root)
        keys = [os.path.relpath(path, self.root) for path in paths]
        splits = given_splits(self.root, keys, [], self.add_choice)
        if "val" not in splits:
            self.add_choice(f"about {self.val:.0%} for val")
            fractions = [*map(_hash_fraction, keys)]
            limit = max(self.val, min(fractions))
            splits = ["val" if fraction <= limit else "train" for fraction in fractions]
        return dict(zip(paths, splits, strict=True))


def _hash_fraction(name: str) -> float:
    """A fixed number from 0 to 1 for an image, by its path below the folder of images."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:6]) / 2**48


class DrawnFaces(ClassificationData):
    """Mixin: the demo's drawn faces, in the layouts of CelebA and LFW, generated in `root` on first use."""

    def __init__(
        self, root: str, resolution: int, *, people: int, images_per_identity: int, seed: int, **settings: Any
    ) -> None:
        super().__init__(root, resolution, **settings)
        self.counts = {"people": people, "images": images_per_identity, "seed": seed}

    def prepare(self) -> None:
        if not self.root.exists():
            log.info("generating faces of %(people)d people, %(images)d images each", self.counts)
        write_faces(self.root, **self.counts)


class DemoFacesData(DrawnFaces, CelebAData):
    """The demo of face attributes."""
