"""Shards whose samples name classes or attributes."""

from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from data.base import SuiteData
from data.image_file import BadImage
from data.remote import is_address
from data.shards.stream import Found, ShardLoaders
from data.tar import ShardSample, compressed
from data.text import read_lines

DIGITS = 18  # of a numeric class name, used to sort: Python does not parse thousands of digits


def label_of(label: Any) -> str | int:
    """A label of a .json: a whole number as it is, anything else as text."""
    return label if type(label) is int else str(label)


class LabelledShards(ShardLoaders):
    """`classes` is a file below root with one class or attribute name per line, in the order of their indices; without
    it, shards on disk are read once for the names and the number of samples.
    """

    kinds: tuple[str, ...] = ("json",)  # kinds of a sample's files that name its labels
    least_labels = 1
    called = "classes"
    numbered = True  # whether a sample may give a label's index instead of its name, if `classes` is given

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

    def names_of(self, sample: ShardSample) -> Iterable[str]:
        """The labels that a sample names.

        Raises:
            BadImage: it names none, and should.
        """
        raise NotImplementedError("a task on shards defines names_of")

    @cached_property
    def _surveyed(self) -> tuple[int, list[str]]:
        """The number of training images, and the names of their labels."""
        count, names = 0, set[str]()
        for sample in self.survey("train", self.kinds):
            try:
                found = {*self.names_of(sample)}
                "".join(found).encode()
                names |= found
                count += 1
            except (BadImage, UnicodeEncodeError):  # a name with a lone surrogate cannot be encoded
                continue  # it is reported in training
        if not count:
            named = " or ".join(f".{kind}" for kind in self.kinds)
            raise UserError(
                f"{self.root / self.sources['train']}: no sample has a {named} that names its {self.called}; "
                "if these are archives of images, unpack them"
            )
        return count, sorted(names, key=lambda name: (int(name[:DIGITS]) if name.isdecimal() else -1, name))

    @cached_property
    def labels(self) -> list[str]:
        if self.classes is None:
            if any(map(is_address, self.shards("train"))):
                raise UserError("remote shards need data.classes=<a file with one class per line>")
            names = self._surveyed[1]
        else:
            names = read_lines(self.root / self.classes)
        if len(names) < self.least_labels:
            raise UserError(
                f"{self.classes or self.sources['train']} names {len(names)} {self.called}; "
                f"at least {self.least_labels} needed"
            )
        return names

    @property
    def index(self) -> dict[str | int, int]:
        """The index of each label, by each text or number that a sample may give it. If `classes` is given, a number is
        an index, and so is a text of digits that is no label; else both are labels.
        """
        found: dict[str | int, int] = {name: i for i, name in enumerate(self.labels)}
        if not self.numbered:
            return found
        if self.classes:
            numbers = range(len(found))
            return {str(i): i for i in numbers} | found | {i: i for i in numbers}
        plain = {name: i for name, i in found.items() if str(name).isdecimal() and len(str(name)) <= DIGITS}
        return found | {int(name): i for name, i in plain.items() if str(int(name)) == name}

    def count_train(self) -> int:
        return self._surveyed[0]


class TrainingShards(LabelledShards):
    """Only the train split is streamed: val and test are read from disk by image path, as their metrics require."""

    streamed = ("train",)

    def read_all(self, split: str, read: Callable[[ShardSample, Path], Found]) -> list[Found]:
        for shard in self.shards(split):
            if is_address(shard):
                raise UserError(f"data.{split}={self.sources[split]}: this task measures on shards that are on disk")
            if compressed(Path(shard)):
                raise UserError(f"data.{split}: {shard} is compressed; unpack it, so that single images can be read")
        return super().read_all(split, read)

    def check(self) -> None:
        super().check()
        self.dataset("val")
        if self.sources["test"] != self.sources["val"]:
            self.build_dataset("test")

    def summary(self) -> str:
        return SuiteData.summary(self)  # without counts of training samples, for which a task's own reads all shards

    def examples(self) -> dict[str, int]:
        return {}  # unknown: training samples are streamed
