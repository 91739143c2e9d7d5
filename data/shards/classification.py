"""Classification on WebDataset tar shards."""

import json
import math
import random
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data.base import Split
from data.boxes import Box
from data.classification import ClassificationData, ImageSet
from data.crops import decode_crop
from data.image_file import BadImage
from data.shards.labelled import LabelledShards, label_of
from data.shards.stream import ShardStream, image_of
from data.tar import ShardSample


def class_of(sample: ShardSample) -> str | int:
    """A sample's .cls file, or the `label` of its json, a name or an index; BadImage if it has neither."""
    try:
        if "cls" in sample.files:
            return sample.files["cls"].decode("utf-8-sig").strip()
        return label_of(json.loads(sample.files["json"])["label"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise BadImage(Path(sample.name), "neither .cls nor a label in .json") from error


def box_of(sample: ShardSample) -> Box | None:
    """Left, top, right and bottom in pixels that a sample's json gives under `box`; BadImage if that is not a box."""
    try:
        found = json.loads(sample.files.get("json", b"{}")).get("box")
        if found is None:
            return None
        left, top, right, bottom = map(float, found)
        if 0 <= left < right < math.inf and 0 <= top < bottom < math.inf:
            return left, top, right, bottom
    except (AttributeError, TypeError, ValueError, OverflowError, RecursionError):
        pass
    raise BadImage(Path(sample.name), "its box is not left, top, right, bottom in pixels")


def decode_view(
    sample: ShardSample, views: ImageSet, label: int | np.ndarray, box: Box | None = None
) -> dict[str, Any]:
    """A sample with a label or attributes, like those of an ImageSet."""
    content = image_of(sample)
    image, size = decode_crop(content, Path(sample.name), views.chooser(box), views.resolution)
    mirror = views.flip and random.random() < 0.5
    facts = {"label": label, "path": sample.name, "size": size, "row": -1, "view": 0}
    return {"image": image, "mirror": mirror, **facts}


def decode_image(sample: ShardSample, views: ImageSet, classes: Mapping[str | int, int]) -> dict[str, Any]:
    """A classification sample."""
    name = class_of(sample)
    if name not in classes:
        raise BadImage(Path(sample.name), f"there is no class {name}")
    return decode_view(sample, views, classes[name], box_of(sample))


class ShardClassificationData(LabelledShards, ClassificationData):
    """Images with a .cls file (an index or a name) or a .json with `label`."""

    kinds = ("cls", "json")
    least_labels = 2

    def names_of(self, sample: ShardSample) -> list[str]:
        return [str(class_of(sample))]

    def build_dataset(self, split: Split) -> ImageSet:
        """An empty data set, used only for its crop settings."""
        return self.image_set(split, [])

    def stream(self, split: Split, **settings: Any) -> ShardStream:
        views = self.dataset(split)
        assert isinstance(views, ImageSet)
        decode = partial(decode_image, views=views, classes=self.index)
        return ShardStream(self.shards(split), decode, **settings)
