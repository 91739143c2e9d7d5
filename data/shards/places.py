"""Photos with positions in WebDataset tar shards: an image and a .json for each."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from backbones.errors import UserError
from data.base import Split
from data.geo.cells import Hierarchy
from data.geo.places import GeoData, Places, problem, sample
from data.geo.s2 import Floats
from data.image_file import BadImage
from data.images import read_image
from data.rejects import Rejects
from data.remote import is_address
from data.shards.classification import ShardData, ShardSet
from data.table import POSITIONS
from data.tar import Record

if TYPE_CHECKING:
    from torchvision.transforms import v2


def position_of(record: Record) -> Floats:
    """Latitude and longitude (2,) in degrees that a sample's .json gives; BadImage where it does not."""
    try:
        facts = json.loads(record.files["json"])
        small = {str(name).lower(): value for name, value in facts.items()}
        found = [next(small[name] for name in known if name in small) for known in POSITIONS.values()]
        position = np.array(found, np.float64)
    except (KeyError, AttributeError, TypeError, ValueError, StopIteration, RecursionError) as error:
        raise BadImage(Path(record.name), "without a .json that has latitude and longitude") from error
    if wrong := problem(*position.tolist()):
        raise BadImage(Path(record.name), wrong)
    return position


@dataclass
class Decoder:
    """Makes samples of records; None of photos that lie in no cell, where they should train."""

    hierarchy: Hierarchy
    transforms: "v2.Compose"
    at_least: int
    train: bool

    def __call__(self, record: Record) -> dict[str, Any] | None:
        position = position_of(record)
        cells = self.hierarchy.assign(*position)[0]
        if self.train and cells[-1] < 0:
            return None
        if record.kind is None:
            raise BadImage(Path(record.name), f"no image among its files ({', '.join(record.files)})")
        image, size = read_image(Path(record.name), self.at_least, content=record.files[record.kind])
        return sample(self.transforms(image), position, cells, size, -1)


class PlaceShards(ShardData, GeoData):
    """Splits that are shards. Those on disk are looked through for their positions, of which the partitions are
    made and the training photos counted; with `partition` and `train_count` this is not needed.
    """

    def places(self, split: Split | Literal["gallery"]) -> Places:
        """The photos of a split on disk, as paths into its shards."""
        pattern = self.sources[split]
        if pattern not in self._places:
            rejects, paths, positions, total = Rejects(self.root / pattern), [], [], 0
            for record in self.survey(split, ("json",)):
                total += 1
                try:
                    if record.kind is None:
                        raise BadImage(Path(record.name), "without an image")
                    positions.append(position_of(record))
                    paths.append(Path(f"{record.name}.{record.kind}"))
                except BadImage as error:
                    rejects.add(error.args[1], record.name)
            rejects.report(total, self.max_bad)
            self._places[pattern] = Places(paths, np.array(positions))
        return self._places[pattern]

    def num_images(self, split: Split) -> float:
        if split != "train":
            return float("inf")  # nobody counts what is read once
        if self.train_count:
            return self.train_count
        if any(map(is_address, self.shards("train"))):
            raise UserError("shards at addresses need data.train_count=<how many photos they have>")
        return int((self.hierarchy.assign(*self.places("train").positions.T)[:, -1] >= 0).sum())

    def stream(self, split: Split, **reading: Any) -> ShardSet:
        decode = Decoder(self.hierarchy, *self.view(split), train=split == "train")
        return ShardSet(self.shards(split), decode, **reading)
