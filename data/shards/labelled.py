"""Shards whose samples name classes or attributes."""

from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from backbones.errors import UserError
from data.base import Split, SuiteData
from data.image_file import BadImage
from data.remote import is_address
from data.shards.stream import Found, ShardLoaders
from data.tar import Record
from data.text import read_lines


class LabelledShards(ShardLoaders):
    """`classes` is a file below root with the name of a class or attribute on each line, indices being those of the
    lines; without it, shards on disk are read once for the names and the number of samples.
    """

    kinds: tuple[str, ...] = ("json",)  # of a sample's files, those that name its labels
    least_labels = 1

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

    def names_of(self, record: Record) -> Iterable[str]:
        """The labels that a sample names.

        Raises:
            BadImage: it names none, and should.
        """
        raise NotImplementedError("a task on shards defines names_of")

    @cached_property
    def _surveyed(self) -> tuple[int, list[str]]:
        """How many images train, and the names of their labels."""
        count, names = 0, set[str]()
        for record in self.survey("train", self.kinds):
            try:
                names.update(self.names_of(record))
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
        if len(names) < self.least_labels:
            raise UserError(
                f"{self.classes or self.sources['train']} names {len(names)} classes; "
                f"at least {self.least_labels} are needed"
            )
        return names

    @property
    def index(self) -> dict[str, int]:
        """The index of each label by its name or, where a file names them, by its number."""
        found = {name: i for i, name in enumerate(self.labels)}
        return found | {str(i): i for i in range(len(found))} if self.classes else found

    def count_train(self) -> int:
        return self._surveyed[0]


class TrainingShards(LabelledShards):
    """Only training streams: val and test are read from disk, each image by its path, as their metrics want them."""

    def read_all(self, split: str, read: Callable[[Record, Path], Found]) -> list[Found]:
        if any(map(is_address, self.shards(split))):
            raise UserError(f"data.{split}={self.sources[split]}: this task measures on shards that are on disk")
        return super().read_all(split, read)

    def loader(self, split: Split) -> DataLoader:
        return super().loader(split) if split == "train" else SuiteData.loader(self, split)

    def num_images(self, split: Split) -> float:
        return super().num_images(split) if split == "train" else SuiteData.num_images(self, split)

    def check(self) -> None:
        super().check()
        self.dataset("val")
        if self.sources["test"] != self.sources["val"]:
            self.build_dataset("test")

    def summary(self) -> str:
        return SuiteData.summary(self)

    def examples(self) -> dict[str, int]:
        return {}  # unknown: they are read once
