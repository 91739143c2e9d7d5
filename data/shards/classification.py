"""Classification on WebDataset tar shards."""

import json
import math
import random
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from data.base import Split
from data.boxes import Box
from data.classification import ClassificationData, ImageSet
from data.crops import decode_crop
from data.image_file import BadImage
from data.remote import is_address
from data.shards.stream import ShardLoaders, ShardStream, image_of
from data.tar import Record
from data.text import read_lines


def class_of(record: Record) -> str:
    """The class that a sample's .cls file or its json's `label` names; BadImage if neither does."""
    try:
        if "cls" in record.files:
            return record.files["cls"].decode("utf-8-sig").strip()
        return str(json.loads(record.files["json"])["label"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise BadImage(Path(record.name), "neither .cls nor a label in .json") from error


def box_of(record: Record) -> Box | None:
    """Left, top, right and bottom in pixels that a sample's json gives under `box`; BadImage if that is not a box."""
    try:
        found = json.loads(record.files.get("json", b"{}")).get("box")
        if found is None:
            return None
        left, top, right, bottom = map(float, found)
        if 0 <= left < right < math.inf and 0 <= top < bottom < math.inf:
            return left, top, right, bottom
    except (AttributeError, TypeError, ValueError, OverflowError, RecursionError):
        pass
    raise BadImage(Path(record.name), "its box is not left, top, right, bottom in pixels")


def decode_image(record: Record, views: ImageSet, classes: dict[str, int]) -> dict[str, Any]:
    """A sample of classification."""
    name = class_of(record)
    if name not in classes:
        raise BadImage(Path(record.name), f"there is no class {name}")
    box, content = box_of(record), image_of(record)
    image, size = decode_crop(content, Path(record.name), views.chooser(box), views.resolution, upright=box is None)
    mirror = views.flip and random.random() < 0.5
    facts = {"label": classes[name], "path": record.name, "size": size, "row": -1, "view": 0}
    return {"image": image, "mirror": mirror, **facts}


class ShardClassificationData(ShardLoaders, ClassificationData):
    """Images with a .cls file (an index or a name) or a .json with `label`.

    `classes` is a file below root with a class's name on each line, indices being those of the lines; without it,
    shards on disk are read once for their classes and their number.
    """

    def __init__(
        self,
        root: str,
        resolution: int,
        *,
        train: str,
        val: str,
        test: str | None = None,
        classes: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(root, resolution, **settings)
        self.sources = {"train": train, "val": val, "test": test or val}
        self.classes = classes

    @cached_property
    def _surveyed(self) -> tuple[int, list[str]]:
        """How many images train, and the names of their classes."""
        count, names = 0, set()
        for record in self.survey("train", ("cls", "json")):
            try:
                names.add(class_of(record))
                count += 1
            except BadImage:
                continue  # it is reported when it is to train
        return count, sorted(names, key=lambda name: (int(name) if name.isdecimal() else -1, name))

    @cached_property
    def labels(self) -> list[str]:
        if self.classes is None:
            if any(map(is_address, self.shards("train"))):
                raise UserError("remote shards need data.classes=<a file with one class per line>")
            names = self._surveyed[1]
        else:
            names = read_lines(self.root / self.classes)
        if len(names) < 2:
            raise UserError(
                f"{self.classes or self.sources['train']} names {len(names)} classes; at least 2 are needed"
            )
        return names

    def count_train(self) -> int:
        return self._surveyed[0]

    def build_dataset(self, split: Split) -> ImageSet:
        """An empty set, whose settings say how images are cropped."""
        if split == "train":
            return ImageSet([], self.resolution, min_scale=self.min_scale, flip=self.flip)
        return ImageSet([], self.resolution, center_crop=self.center_crop)

    def stream(self, split: Split, **settings: Any) -> ShardStream:
        views = self.dataset(split)
        assert isinstance(views, ImageSet)
        classes = {name: i for i, name in enumerate(self.labels)}
        if self.classes:
            classes |= {str(i): i for i in range(len(classes))}
        decode = partial(decode_image, views=views, classes=classes)
        return ShardStream(self.shards(split), decode, **settings)
