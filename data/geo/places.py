"""Data sets of photos with positions: splits, samples and batches; and the demo."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from backbones.errors import UserError
from data.base import SPLITS, Batch, Split, SuiteData
from data.boxes import Box, full_image, random_box
from data.crops import CropReader
from data.demo.earth import write_earth
from data.geo.cells import Hierarchy, Partition, PartitionSettings
from data.geo.positions import Places, read_csv, read_folder
from data.geo.s2 import Floats, Ints
from data.images import first_readable
from data.splits import given_splits
from data.tar import SampleSource

if TYPE_CHECKING:
    from torchvision.transforms import v2

log = logging.getLogger(__name__)

GRID = 1 << 12  # a photo is divided into so many columns and rows, between which crops are drawn


def random_part(height: int, width: int, least: float) -> Box:
    """A crop of at least a fraction `least` of a photo's area, for training: it has about the photo's aspect ratio, as
    predictions show all of a photo as a square.
    """
    left, top, right, bottom = random_box(GRID, GRID, least, ratios=(0.9, 1.11))
    return left * width / GRID, top * height / GRID, right * width / GRID, bottom * height / GRID


def geo_transforms(flip: bool, photometric: float) -> "v2.Compose":
    """Augmentation of uint8 images besides crops."""
    from torchvision.transforms import v2

    steps: list[torch.nn.Module] = [v2.Identity()]  # there may be no others
    if flip:
        steps.append(v2.RandomHorizontalFlip())
    if photometric:
        steps.append(v2.RandomApply([v2.ColorJitter(0.3, 0.3, 0.2)], photometric))
    return v2.Compose(steps)


@dataclass
class GeoBatch(Batch):
    """Images (B, 3, R, R) uint8, positions (B, 2) in degrees, cells (B, P) in each partition, -1 if in none."""

    positions: Tensor
    cells: Tensor
    rows: Tensor  # (B,) index in the split, -1 in a stream


def sample(image: Tensor, position: Floats, cells: Ints, size: tuple[int, int], row: int) -> dict[str, Any]:
    """A photo as `collate` expects it."""
    where = {"positions": torch.from_numpy(position).float(), "cells": torch.from_numpy(cells)}
    return {"images": image, **where, "sizes": torch.tensor(size), "rows": torch.tensor(row)}


@dataclass(frozen=True)
class PhotoView:
    """How photos are shown to the network: the crop that `choose(height, width)` returns, as a square of `resolution`
    pixels, and then the transforms.
    """

    resolution: int
    choose: Callable[[int, int], Box]
    transforms: "v2.Compose"

    @property
    def kept_side(self) -> int:
        """The side in pixels of photos that are kept in memory: crops are enlarged, so they need more pixels."""
        return self.resolution if self.choose is full_image else self.resolution * 5 // 4


class GeoSet(Dataset[dict[str, Any]]):
    """Photos as samples. An unreadable one is replaced by the next, and reported in the batch."""

    def __init__(self, places: Places, cells: Ints, view: PhotoView, cache_images: bool) -> None:
        self.places = places
        self.cells = cells
        self.view = view
        self.reader = CropReader(view.resolution, view.kept_side if cache_images else None)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return first_readable(self._sample, index, len(self))

    def _sample(self, row: int) -> dict[str, Any]:
        image, size = self.reader.read(self.places.paths[row], self.view.choose)
        return sample(self.view.transforms(image), self.places.positions[row], self.cells[row], size, row)


def collate(samples: list[dict[str, Any]]) -> GeoBatch:
    names = ("images", "positions", "cells", "sizes", "rows")
    stacked = {name: torch.stack([s[name] for s in samples]) for name in names}
    return GeoBatch(**stacked, bad=[problem for s in samples for problem in s["bad"]])


class GeoData(SuiteData):
    """Splits that are CSV files (path, latitude, longitude) or folders of photos with GPS, below `root`. Without val,
    splits are those of the table's column, or else those that the photos' folders are named after; if there are none, a
    fifth of train is drawn for val, with photos in the same cell of about 100 m in one split.

    The partitions, one for each of `max_photos`, coarse to fine, are made from the training positions, or read from
    the files `partition`; equal ones are made once. Photos outside of all cells of the finest do not train. The test
    split is val's if null.

    Raises:
        UserError: a split is absent or unusable, or the settings leave no cell.
    """

    def __init__(
        self,
        root: str,
        resolution: int,
        *,
        train: str,
        val: str | None,
        test: str | None,
        gallery: str | None,
        max_photos: Sequence[int],
        min_photos: int,
        min_level: int,
        max_level: int = 30,
        partition: Sequence[str] | None = None,
        crop: float,
        flip: bool,
        photometric: float,
        cache_images: bool | Literal["auto"] = "auto",
        **settings: Any,
    ) -> None:
        super().__init__(root, **settings)
        self.resolution = resolution
        self.sources: dict[str, Any] = {"train": train, "val": val, "test": test or val}
        self.sources["gallery"] = gallery or train
        self.settings = [PartitionSettings(count, min_photos, min_level, max_level) for count in max_photos]
        self.files = partition or ()
        self.augmentation = (crop, flip, photometric)
        self.cache_images = cache_images
        self._places: dict[str, Places] = {}

    def prepare(self) -> None:
        super().prepare()
        for split in ("val", "test"):  # so that their absence is found before the first epoch
            name = self.sources[split]
            if name and not (self.root / name).exists():
                raise UserError(f"data.{split}: there is neither a file nor a folder {self.root / name}")

    def check(self) -> None:
        super().check()
        for split in SPLITS:
            photos = self.places(split).paths[:1000]
            if not photos:
                raise UserError(
                    f"{self.root}: no photos are left for {split}, as those in the same cell of about 100 m are in one "
                    "split; set data.val= to the validation photos"
                )
            if not any(path.is_file() for path in photos):
                raise UserError(f"none of the first {len(photos)} photos of {split} are there: {photos[0]}, ...")
        self.check_cells()

    def check_cells(self) -> None:
        """Raises UserError if there is only one cell to choose from."""
        if len(self.hierarchy.partitions[-1]) < 2:
            raise UserError(
                f"{self.root}: all photos that can be trained on lie in one cell; lower data.max_photos and "
                "data.min_photos, so that there are smaller ones"
            )

    def sample_sources(self, split: Split | Literal["gallery"]) -> list[SampleSource]:
        """The photos of a split with their positions."""
        found = self.places(split)
        positions = zip(found.paths, found.positions.tolist(), strict=True)
        return [
            SampleSource(path, {"latitude": latitude, "longitude": longitude})
            for path, (latitude, longitude) in positions
        ]

    def places(self, split: Split | Literal["gallery"]) -> Places:
        """The photos of a split, read once."""
        name, train = self.sources[split], str(self.sources["train"])
        if self.sources["val"] or name not in (None, train):
            return self._read(str(name))
        found = self._read(train)
        part = "train" if name else "test" if split == "test" and "test" in self._splits else "val"
        rows = [i for i, own in enumerate(self._splits) if own == part]
        return Places([found.paths[i] for i in rows], found.positions[rows])

    @cached_property
    def _splits(self) -> list[str | None]:
        """The split of each photo of train's source, if there is none for val: by the column of splits or the photos'
        folders, or else drawn.
        """
        name = str(self.sources["train"])
        found = self._read(name)
        keys = [Path(os.path.relpath(path, self.root)).as_posix() for path in found.paths]
        if found.words:
            self.add_choice("splits by the table's column")
        splits = given_splits(self.root / name, keys, found.words, self.add_choice)
        if "val" in splits:
            return splits
        train = [i for i, split in enumerate(splits) if split == "train"]
        cells = [(round(a, 3), round(b, 3)) for a, b in found.positions[train].tolist()]
        drawn = self.draw_val([keys[i] for i in train], groups=cells)
        return [drawn[key] if split == "train" else split for key, split in zip(keys, splits, strict=True)]

    def _read(self, name: str) -> Places:
        if name not in self._places:
            source = self.root / name
            self._places[name] = read_folder(source) if source.is_dir() else read_csv(source, self.root, self.max_bad)
        return self._places[name]

    @cached_property
    def hierarchy(self) -> Hierarchy:
        """The partitions, coarse to fine."""
        built = Hierarchy(tuple(Partition.load(self.root / f) for f in self.files)) if self.files else self._made()
        # a run of an earlier version, which is resumed, has a head for each of them
        return built if built.labels == self.known else built.distinct()

    def _made(self) -> Hierarchy:
        """The partitions of the training photos."""
        places = self.places("train")
        if len(places) < self.settings[-1].min_photos:
            raise UserError(
                f"{self.root}: {len(places)} photos with positions are too few to train on: a cell has at least "
                f"data.min_photos={self.settings[-1].min_photos}"
            )
        latitude, longitude = places.positions.T
        return Hierarchy.build(latitude, longitude, self.settings)

    @property
    def labels(self) -> list[str]:
        return self.hierarchy.labels

    def use_labels(self, labels: list[str]) -> None:
        """Uses the model's cells, whatever the photos' positions."""
        self.hierarchy = Hierarchy.from_labels(labels)

    def build_dataset(self, split: Split | Literal["gallery"]) -> GeoSet:
        places, train = self.places(split), split == "train"
        cells = self.hierarchy.assign(*places.positions.T)
        if train:
            kept = np.flatnonzero(cells[:, -1] >= 0)
            log.info("%d of %d photos lie in no cell and do not train", len(places) - len(kept), len(places))
            places, cells = Places([places.paths[i] for i in kept], places.positions[kept]), cells[kept]
        view = self.view(split)
        return GeoSet(places, cells, view, self.keeps_images(4 * view.kept_side**2 * len(places)))

    def view(self, split: str) -> PhotoView:
        """How a split's photos are shown: training's are augmented."""
        crop, flip, photometric = self.augmentation if split == "train" else (1.0, False, 0.0)
        choose = partial(random_part, least=crop) if crop < 1 else full_image
        return PhotoView(self.resolution, choose, geo_transforms(flip, photometric))

    collate = staticmethod(collate)


class DemoEarthData(GeoData):
    """Photos of the Earth from above, generated in `root` on first use."""

    def __init__(
        self,
        root: str,
        resolution: int,
        *,
        train: int,
        val: int,
        gallery: int,
        size: int,
        seed: int,
        generated: bool,
        **settings: Any,
    ) -> None:
        super().__init__(
            root, resolution, train="train.csv", val="val.csv", test=None, gallery="gallery.csv", **settings
        )
        self.counts: dict[str, Any] = {"train": train, "val": val, "gallery": gallery}
        self.look: dict[str, Any] = {"size": size, "seed": seed, "generated": generated}

    def prepare(self) -> None:
        if not self.root.exists():
            log.info("generating %(train)d + %(val)d + %(gallery)d photos of the Earth", self.counts)
        write_earth(self.root, **self.counts, **self.look)
