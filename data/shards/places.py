"""Photos with positions in WebDataset tar shards: an image and a .json for each."""

import json
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.base import Split
from data.crops import decode_crop
from data.geo.cells import Hierarchy
from data.geo.places import GeoData, PhotoView, sample
from data.geo.positions import Places, problem
from data.geo.s2 import Floats
from data.image_file import BadImage
from data.shards.stream import ShardLoaders, ShardStream, image_of
from data.table import POSITIONS
from data.tar import ShardSample


def position_of(photo: ShardSample) -> Floats:
    """Latitude and longitude (2,) in degrees that a sample's .json gives; BadImage if it does not."""
    try:
        facts = json.loads(photo.files["json"])
        small = {str(name).lower(): value for name, value in facts.items()}
        found = [next(small[name] for name in known if name in small) for known in POSITIONS.values()]
        position = np.array(found, np.float64).reshape(2)
    except (KeyError, AttributeError, TypeError, ValueError, StopIteration, RecursionError) as error:
        raise BadImage(Path(photo.name), "without a .json that has latitude and longitude") from error
    if wrong := problem(*position.tolist()):
        raise BadImage(Path(photo.name), wrong)
    return position


def decode_photo(photo: ShardSample, hierarchy: Hierarchy, view: PhotoView, train: bool) -> dict[str, Any] | None:
    """A sample, or None for a training photo that lies in no cell."""
    position = position_of(photo)
    cells = hierarchy.assign(*position)[0]
    if train and cells[-1] < 0:
        return None
    image, size = decode_crop(image_of(photo), Path(photo.name), view.choose, view.resolution)
    return sample(view.transforms(image), position, cells, size, -1)


class ShardGeoData(ShardLoaders, GeoData):
    """Splits that are shards. Those on disk are read once for their positions, from which the partitions are made and
    the training photos are counted; with `partition` and `train_count` this is not needed.
    """

    def check(self) -> None:
        super().check()
        self.check_cells()

    def places(self, split: Split | Literal["gallery"]) -> Places:
        """The photos of a split on disk, as paths into its shards."""
        pattern = self.sources[split]
        if pattern not in self._places:
            found = self.read_all(split, lambda photo, path: (path, position_of(photo)))
            self._places[pattern] = Places([path for path, _ in found], np.array([position for _, position in found]))
        return self._places[pattern]

    def count_train(self) -> int:
        return int((self.hierarchy.assign(*self.places("train").positions.T)[:, -1] >= 0).sum())

    def stream(self, split: Split, **settings: Any) -> ShardStream:
        decode = partial(decode_photo, hierarchy=self.hierarchy, view=self.view(split), train=split == "train")
        return ShardStream(self.shards(split), decode, **settings)
