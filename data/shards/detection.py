"""Detection on WebDataset tar shards: an image and a .json with its `objects` for each."""

import json
import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbones.errors import UserError
from data.base import Split
from data.detection import MOSAIC_UNTIL, DetectionData, DetectionSet, Record, compose, draw_view, shrunk
from data.image_file import BadImage
from data.images import read_image
from data.seeding import Progress
from data.shards.labelled import TrainingShards, label_of
from data.shards.stream import ShardStream, image_of
from data.tar import ShardSample

RECENT = 32  # last images of a reader, of which mosaics are made
LARGEST = 1e9  # pixels; box coordinates must be below


def named_objects(sample: ShardSample) -> list[dict[str, Any]]:
    """What a sample's .json lists under `objects`; BadImage if they are not objects with a label."""
    try:
        found = json.loads(sample.files["json"])["objects"]
        if type(found) is not list:
            raise TypeError
        found = [dict(thing, label=label_of(thing["label"])) for thing in found]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise BadImage(Path(sample.name), "without a .json that lists objects, each with a label and a box") from error
    return found


def objects_of(sample: ShardSample, classes: Mapping[str | int, int], path: Path) -> Record:
    """The objects of a sample as a record; BadImage if one has another class, or no valid box."""
    found = named_objects(sample)
    if (strange := next((thing["label"] for thing in found if thing["label"] not in classes), None)) is not None:
        raise BadImage(Path(sample.name), f"there is no class {strange}")
    try:
        boxes = np.array([thing["box"] for thing in found], np.float64).reshape(len(found), 4)
        areas = np.array([float(thing.get("area", math.nan)) for thing in found])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadImage(Path(sample.name), "an object without a box of four numbers, or whose area is none") from error
    if not (np.abs(boxes) < LARGEST).all() or not (boxes[:, 2:] > boxes[:, :2]).all() or (areas < 0).any():
        raise BadImage(Path(sample.name), "a box that is not left, top, right, bottom in pixels, or an area below 0")
    whole = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return Record(
        path=path,
        image_id=-1,
        boxes=boxes,
        labels=np.array([classes[thing["label"]] for thing in found], np.int64),
        areas=np.where(np.isfinite(areas), areas, whole),
        crowd=np.array([thing.get("crowd") is True for thing in found], bool),
        difficult=np.array([thing.get("difficult") is True for thing in found], bool),
    )


class DetectionStream(ShardStream):
    """Training samples, as a DetectionSet makes them; the other three images of a mosaic are among the last RECENT that
    the same reader has read in this epoch.
    """

    def __init__(
        self, shards: list[str], images: DetectionSet, classes: Mapping[str | int, int], **settings: Any
    ) -> None:
        super().__init__(shards, self.make_sample, **settings)
        self.images, self.classes = images, classes
        self.crop = False
        self.recent: deque[tuple[Tensor, tuple[int, int], Record]] = deque(maxlen=RECENT)

    def _samples(self, epoch: int, reader: int, readers: int) -> Iterator[dict[str, Any]]:
        self.crop = self.images.augmentation.crops(Progress(*self.progress.tolist()))
        self.recent.clear()  # so that an epoch depends on its seed and number alone
        return super()._samples(epoch, reader, readers)

    def make_sample(self, sample: ShardSample) -> dict[str, Any]:
        path, wanted, side = Path(sample.name), self.images.augmentation, self.images.read_side(self.crop)
        known = objects_of(sample, self.classes, path)
        image, size = read_image(path, side, image_of(sample))
        drawn = [(image, size, known)]
        if wanted.mosaic and self.progress[0] < MOSAIC_UNTIL:
            if len(self.recent) >= 3 and torch.rand(()) < wanted.mosaic:
                drawn += [self.recent[i] for i in torch.randperm(len(self.recent))[:3].tolist()]
            self.recent.append((shrunk(image, side), size, known))
        views = [draw_view(*item, crop=self.crop, flip=wanted.flip) for item in drawn]
        return compose(views, self.images.side, wanted.photometric) | {"image_id": -1, "size": size}


class ShardDetectionData(TrainingShards, DetectionData):
    """Images with a .json whose `objects` have `label` (an index or a name) and `box` (left, top, right and bottom in
    pixels), and perhaps `area`, `crowd` and `difficult`.
    """

    def __init__(self, root: str, resolution: int, **settings: Any) -> None:
        super().__init__(root, resolution, **settings)
        if self.balance:
            raise UserError("data.balance draws images by their classes, which a stream of shards cannot")

    def names_of(self, sample: ShardSample) -> set[str]:
        return {str(thing["label"]) for thing in named_objects(sample)}

    def records(self, split: Split) -> list[Record]:
        """The images of a split on disk."""
        index = self.index
        found = self.read_all(split, lambda sample, path: objects_of(sample, index, path))
        return [replace(record, image_id=i) for i, record in enumerate(found)]

    def build_dataset(self, split: Split) -> DetectionSet:
        """For train an empty data set, used only for its augmentation settings."""
        if split == "train":
            return DetectionSet([], self.resolution, self.augmentation)
        return super().build_dataset(split)

    def stream(self, split: Split, **settings: Any) -> ShardStream:
        images = self.dataset(split)
        assert isinstance(images, DetectionSet)
        return DetectionStream(self.shards(split), images, self.index, **settings)
