"""Face attributes on WebDataset tar shards: an image and a .json with its `attributes` for each."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from backbones.errors import UserError
from data.base import Split
from data.classification import ImageSet
from data.faces import UNKNOWN, FacesData
from data.image_file import BadImage
from data.shards.classification import decode_view
from data.shards.labelled import TrainingShards
from data.shards.stream import ShardStream
from data.tar import ShardSample

VALUES = {1: 1, 0: 0, -1: 0}  # as CelebA has them; true and 1.0 are equal to 1


def attributes_of(sample: ShardSample) -> dict[str, int]:
    """The attributes, 1 or 0, that a sample's .json gives; BadImage if it gives none or other values."""
    try:
        return {name: VALUES[value] for name, value in json.loads(sample.files["json"])["attributes"].items()}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise BadImage(Path(sample.name), "without a .json of attributes that are 1 or 0") from error


def row_of(sample: ShardSample, index: Mapping[str | int, int]) -> np.ndarray:
    """A sample's attributes (A,) int8, UNKNOWN where absent; BadImage if one is not in `index`."""
    row = np.full(len(index), UNKNOWN, np.int8)
    for name, value in attributes_of(sample).items():
        if name not in index:
            raise BadImage(Path(sample.name), f"there is no attribute {name}")
        row[index[name]] = value
    return row


def decode_face(sample: ShardSample, views: ImageSet, index: Mapping[str | int, int]) -> dict[str, Any]:
    """A training sample."""
    return decode_view(sample, views, row_of(sample, index))


class ShardFacesData(TrainingShards, FacesData):
    """Images with a .json whose `attributes` map names to 1 or 0 (or -1), without unknown ones."""

    called = "attributes"
    numbered = False

    def __init__(self, root: str, resolution: int, **settings: Any) -> None:
        super().__init__(root, resolution, **settings)
        if self.labelled_fraction < 1 or self.unlabelled_folder:
            raise UserError("data.labelled_fraction and data.unlabelled_folder need images as files, not as shards")

    def names_of(self, sample: ShardSample) -> list[str]:
        return list(attributes_of(sample))

    def table(self, split: Split) -> dict[Path, np.ndarray]:
        index = self.index
        return dict(self.read_all(split, lambda sample, path: (path, row_of(sample, index))))

    def build_dataset(self, split: Split) -> ImageSet:
        """For train an empty data set, used only for its crop settings."""
        if split == "train":
            return self.image_set(split, [])
        return super().build_dataset(split)

    def stream(self, split: Split, **settings: Any) -> ShardStream:
        views = self.dataset(split)
        assert isinstance(views, ImageSet)
        return ShardStream(self.shards(split), partial(decode_face, views=views, index=self.index), **settings)
