"""Classification on WebDataset tar shards, and what all tasks on shards share."""

import itertools
import json
import logging
import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, get_worker_info

from backbones.errors import UserError
from data.base import SPLITS, Split, SuiteData
from data.boxes import Box
from data.classification import ClassificationData, ImageSet
from data.crops import decode_crop
from data.image_file import BadImage, noting_salvaged
from data.remote import is_address
from data.seeding import Stream, seed_all
from data.tar import IMAGE_SUFFIXES, BadShard, Record, find_shards, read_records
from data.text import read_lines

log = logging.getLogger(__name__)

KINDS = {*IMAGE_SUFFIXES, "cls", "json"}  # of a sample's files, those that a task may read
MOST_WAITING = 1 << 31  # bytes of the samples that a reader shuffles: of larger ones there are fewer
Decode = Callable[[Record], dict[str, Any] | None]


class ShardSet(Stream):
    """What `decode` makes of the samples of shards, with what went wrong under `bad`; None is left out.

    Each of the readers (loader processes of all ranks) takes every n-th shard or, where the shards are too few,
    every n-th sample. With a `share` a reader gives that many samples an epoch, going round as often as it takes, in
    random order: shards are shuffled, and samples within a buffer of `shuffle`. Without, all samples come once.
    """

    def __init__(
        self,
        shards: Sequence[str],
        decode: Decode,
        *,
        rank: int = 0,
        ranks: int = 1,
        share: int | None = None,
        shuffle: int = 0,
        seed: int = 0,
        epoch: int = 0,
        given: int = 0,
        batch_size: int = 1,
        keep: int = 0,
    ) -> None:
        self.shards, self.decode = list(shards), decode
        self.rank, self.ranks = rank, ranks
        self.share, self.shuffle = share, shuffle
        self.seed, self.epoch = seed, epoch  # of the next iteration; each loader process counts for itself
        self.given = {epoch: given}  # batches that this rank gave before, which its first epoch leaves out
        self.batch_size = batch_size
        self.keep = keep  # bytes of shards at addresses, on disk
        self.random = random.Random()
        self.length: int | None = None  # of an epoch of all the readers of this rank

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError("the number of samples in the shards is unknown")
        return self.length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.epoch += 1
        return self._epoch(self.epoch - 1)

    def _epoch(self, epoch: int) -> Iterator[dict[str, Any]]:
        worker, given = get_worker_info(), self.given.get(epoch, 0)
        number, numbers = (worker.id, worker.num_workers) if worker else (0, 1)
        number = (number + given) % numbers  # batches come from the loader processes by turns
        before = (given - number + numbers - 1) // numbers  # of this reader's batches
        samples = self._samples(epoch, self.rank * numbers + number, self.ranks * numbers)
        return itertools.islice(samples, before * self.batch_size, None)

    def _samples(self, epoch: int, reader: int, readers: int) -> Iterator[dict[str, Any]]:
        self.random = random.Random(f"{self.seed} {epoch} {reader}")
        bad: list[tuple[str, str]] = []
        samples = self._decoded(reader, readers, bad)
        if self.share is not None:
            samples = itertools.islice(samples, self.share)
        held = None  # one behind, so that a fault of the last shard is reported as well
        for sample in samples:
            if held:
                yield held
            held = sample | {"bad": [*bad]}
            bad.clear()
        if held:
            held["bad"] += bad
            yield held

    def _decoded(self, reader: int, readers: int, bad: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
        while True:
            count = 0
            for record in self._shuffled(self._records(reader, readers, bad)):
                if self.share is not None:  # augmentation, too
                    seed_all(self.random.getrandbits(62))
                try:
                    with noting_salvaged() as salvaged:
                        sample = self.decode(record)
                except BadImage as error:
                    bad.append(error.args)
                    continue
                bad += salvaged
                if sample is not None:
                    count += 1
                    yield sample
            if self.share is None:
                return
            if not count:
                example = f": {': '.join(bad[0])}" if bad else ""
                raise UserError(f"no image of the {len(self.shards)} shards can be trained on{example}")

    def _records(self, reader: int, readers: int, bad: list[tuple[str, str]]) -> Iterator[Record]:
        by_shard = len(self.shards) >= readers
        own = self.shards[reader::readers] if by_shard else [*self.shards]
        if self.share is not None:
            self.random.shuffle(own)
        for shard in own:
            try:
                records = read_records(shard, KINDS.__contains__, self.keep)
                yield from records if by_shard else itertools.islice(records, reader, None, readers)
            except BadShard as error:
                bad.append(error.args)

    def _shuffled(self, records: Iterator[Record]) -> Iterator[Record]:
        buffer: list[Record] = []
        waiting = 0  # bytes
        for record in records:
            waiting += record.size
            if len(buffer) < self.shuffle and waiting <= MOST_WAITING:
                buffer.append(record)
                continue
            if buffer:
                at = self.random.randrange(len(buffer))
                record, buffer[at] = buffer[at], record
            waiting -= record.size
            yield record
            while waiting > MOST_WAITING:
                at = self.random.randrange(len(buffer))
                buffer[at], buffer[-1] = buffer[-1], buffer[at]
                waiting -= buffer[-1].size
                yield buffer.pop()
        if buffer:
            self.random.shuffle(buffer)
        yield from buffer


class ShardData(SuiteData):
    """Loaders over shards, in front of a task's data class. `sources` are patterns below root or addresses."""

    sources: dict[str, Any]

    def __init__(
        self, root: str, resolution: int, *, train_count: int | None, shuffle: int, cache_gb: float, **settings: Any
    ) -> None:
        super().__init__(root, resolution, **settings)  # type: ignore[call-arg]  # of the data class behind
        self.train_count, self.shuffle, self.keep = train_count, shuffle, int(cache_gb * 1e9)

    def prepare(self) -> None:
        for split in ("val", "test"):  # train's are looked for at once, and not at all where nothing trains
            self.shards(split)

    def check(self) -> None:
        for split in SPLITS:
            self.shards(split)

    def shards(self, split: str) -> list[str]:
        """The shards of a split; UserError where there are none."""
        found = find_shards(self.root, self.sources[split])
        if not found:
            raise UserError(f"data.{split} names no shard")
        return found

    def survey(self, split: str, kinds: Sequence[str]) -> Iterator[Record]:
        """The samples of a split on disk, with the content of these kinds of files alone.

        Raises:
            UserError: a shard is not on disk.
        """
        for shard in self.shards(split):
            if is_address(shard):
                raise UserError(f"{shard} is not on disk, where its samples could be counted beforehand")
            try:
                yield from read_records(shard, lambda kind: kind in kinds)
            except BadShard as error:
                log.warning("%s: %s", *error.args)

    def stream(self, split: Split, **reading: Any) -> ShardSet:
        """The split's samples, read as `reading` says."""
        raise NotImplementedError("a task on shards defines stream")

    def loader(self, split: Split) -> DataLoader:
        train = split == "train"
        # equal shares for all readers, for ranks wait for each other after each batch
        place = self.place
        readers = place["ranks"] * max(1, self.workers)
        share = (
            max(1, int(self.num_images("train")) // (readers * self.batch_size)) * self.batch_size if train else None
        )
        reading: dict[str, Any] = {"keep": self.keep}
        if train:
            reading |= {
                "share": share,
                "shuffle": self.shuffle,
                "given": self.batches_given,
                "batch_size": self.batch_size,
            }
        dataset = self.stream(split, **place, **reading)
        dataset.length = None if share is None else share * max(1, self.workers)
        # Lightning warns of lengths of shared streams; this one is right
        warnings.filterwarnings("ignore", r"Your `IterableDataset` has `__len__` defined")
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            **self.reading(),
        )


def class_of(record: Record) -> str:
    """The class that a sample's .cls file or its json's `label` names; BadImage where neither does."""
    try:
        if "cls" in record.files:
            return record.files["cls"].decode("utf-8-sig").strip()
        return str(json.loads(record.files["json"])["label"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise BadImage(Path(record.name), "neither .cls nor a label in .json") from error


def box_of(record: Record) -> Box | None:
    """Left, top, right and bottom in pixels that a sample's json gives under `box`; BadImage where it is none."""
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
    if record.kind is None:
        raise BadImage(Path(record.name), f"no image among its files ({', '.join(record.files)})")
    content, path = record.files[record.kind], Path(record.name)
    image, size = decode_crop(content, path, views.chooser(box_of(record)), views.resolution)
    mirror = views.flip and random.random() < 0.5
    facts = {"label": classes[name], "path": record.name, "size": size, "row": -1, "view": 0}
    return {"image": image, "mirror": mirror, **facts}


class ShardsData(ShardData, ClassificationData):
    """Images with a .cls file (an index or a name) or a .json with `label`.

    `classes` is a file below root with a class's name on each line, indices being those of the lines; without it,
    shards on disk are looked through for their classes and their number.
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
        self._counts: dict[Split, int] = {}

    @cached_property
    def _surveyed(self) -> tuple[int, list[str]]:
        """How many images train, and the classes that they name."""
        count, names = 0, set()
        for record in self.survey("train", ("cls", "json")):
            try:
                names.add(class_of(record))
                count += 1
            except BadImage:
                continue  # named again, and counted, when it should train
        return count, sorted(names, key=lambda name: (int(name) if name.isdecimal() else -1, name))

    @cached_property
    def labels(self) -> list[str]:
        if self.classes is None:
            if any(map(is_address, self.shards("train"))):
                raise UserError("shards at addresses need data.classes=<a file with a class on each line>")
            names = self._surveyed[1]
        else:
            names = read_lines(self.root / self.classes)
        if len(names) < 2:
            raise UserError(
                f"{self.classes or self.sources['train']} names {len(names)} classes; at least 2 are needed"
            )
        return names

    def num_images(self, split: Split) -> float:
        if split != "train":
            return float("inf")  # nobody counts what is read once
        if self.train_count:
            return self.train_count
        if any(map(is_address, self.shards("train"))):
            raise UserError("shards at addresses need data.train_count=<how many images they have>")
        return self._surveyed[0]

    def build_dataset(self, split: Split) -> ImageSet:
        """How images are seen, without any."""
        if split == "train":
            return ImageSet([], self.resolution, min_scale=self.min_scale, flip=self.flip)
        return ImageSet([], self.resolution, center_crop=self.center_crop)

    def stream(self, split: Split, **reading: Any) -> ShardSet:
        views = self.dataset(split)
        assert isinstance(views, ImageSet)
        classes = {name: i for i, name in enumerate(self.labels)}
        if self.classes:
            classes |= {str(i): i for i in range(len(classes))}
        decode = partial(decode_image, views=views, classes=classes)
        return ShardSet(self.shards(split), decode, **reading)
