"""What all tasks on WebDataset tar shards share: samples as a stream, and loaders of it."""

import itertools
import logging
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, get_worker_info

from backbones.errors import UserError
from data.base import FEW_BAD, SPLITS, Split, SuiteData, ended_at_exit
from data.image_file import BadImage, noting_salvaged
from data.rejects import Rejects
from data.remote import is_address
from data.seeding import Progress, Stream, seed_all
from data.tar import IMAGE_KINDS, BadShard, ShardSample, find_shards, read_samples

log = logging.getLogger(__name__)

KINDS = {*IMAGE_KINDS, "cls", "json"}  # kinds of a sample's files that a task may read
MOST_WAITING = 1 << 31  # most bytes in a reader's shuffle buffer, which holds fewer samples if they are large
Decode = Callable[[ShardSample], dict[str, Any] | None]
Found = TypeVar("Found")


class ShardStream(Stream):
    """The samples of shards, decoded by `decode`, without those that become None; each has the errors since the
    previous one under `bad`.

    Each of the readers (loader processes of all ranks) takes every n-th shard or, if there are fewer shards than
    readers, every n-th sample. With `num_samples`, a reader yields so many samples per epoch in random order, repeating
    its shards if needed: shards are shuffled and shared out anew in each epoch, and samples shuffled in a buffer of
    size `shuffle`. Without, it yields all samples once. The first epoch skips the `batches_done` that this rank has
    already trained on.
    """

    def __init__(
        self,
        shards: Sequence[str],
        decode: Decode,
        *,
        rank: int = 0,
        world_size: int = 1,
        num_samples: int | None = None,
        shuffle: int = 0,
        seed: int = 0,
        epoch: int = 0,
        batches_done: int = 0,
        batch_size: int = 1,
        cache_bytes: int = 0,
    ) -> None:
        self.shards, self.decode = list(shards), decode
        self.rank, self.world_size = rank, world_size
        self.num_samples, self.shuffle = num_samples, shuffle
        self.seed, self.epoch = seed, epoch  # of the next iteration; each loader process has its own count
        self.batches_done = {epoch: batches_done}
        self.batch_size = batch_size
        self.cache_bytes = cache_bytes  # most bytes of remote shards that are kept on disk
        self.random = random.Random()
        # the Progress of the training when the epoch began; StreamLoader sets it
        self.progress = torch.zeros(2, dtype=torch.float64).share_memory_()
        self.length: int | None = None  # samples per epoch of all readers of this rank

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError("the number of samples in the shards is unknown")
        return self.length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.epoch += 1
        return self._epoch(self.epoch - 1)

    def _epoch(self, epoch: int) -> Iterator[dict[str, Any]]:
        worker, done = get_worker_info(), self.batches_done.get(epoch, 0)
        number, numbers = (worker.id, worker.num_workers) if worker else (0, 1)
        number = (number + done) % numbers  # batches come from the loader processes in turn
        before = (done - number + numbers - 1) // numbers  # batches of this reader to skip
        samples = self._samples(epoch, self.rank * numbers + number, self.world_size * numbers)
        return itertools.islice(samples, before * self.batch_size, None)

    def _samples(self, epoch: int, reader: int, readers: int) -> Iterator[dict[str, Any]]:
        self.random = random.Random(f"{self.seed} {epoch} {reader}")
        bad: list[tuple[str, str]] = []
        samples = self._decoded(epoch, reader, readers, bad)
        if self.num_samples is not None:
            samples = itertools.islice(samples, self.num_samples)
        held = None  # yielded one step later, so that an error at the end of the last shard is reported too
        for sample in samples:
            if held:
                yield held
            held = sample | {"bad": [*bad]}
            bad.clear()
        if held:
            held["bad"] += bad
            yield held

    def _decoded(self, epoch: int, reader: int, readers: int, bad: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
        share = reader
        while True:
            count = 0
            for raw in self._shuffled(self._raw_samples(epoch, share, readers, bad)):
                if self.num_samples is not None:  # so that augmentation is reproducible too
                    seed_all(self.random.getrandbits(62))
                try:
                    with noting_salvaged() as salvaged:
                        sample = self.decode(raw)
                except BadImage as error:
                    bad.append(error.args)
                    continue
                bad += salvaged
                if sample is not None:
                    count += 1
                    yield sample
            if self.num_samples is None:
                return
            if count:
                continue
            share = (share + 1) % readers  # this one is in a damaged shard, or there are fewer images than readers
            if len(bad) >= FEW_BAD or share == reader:
                example = f": {': '.join(bad[0])}" if bad else ""
                raise UserError(f"the {len(self.shards)} shards have no image that can be used for training{example}")

    def _raw_samples(self, epoch: int, share: int, shares: int, bad: list[tuple[str, str]]) -> Iterator[ShardSample]:
        for shard, first, step in self._share(epoch, share, shares):
            try:
                samples = read_samples(shard, KINDS.__contains__, self.cache_bytes)
                yield from itertools.islice(samples, first, None, step)
            except BadShard as error:
                bad.append(error.args)

    def _share(self, epoch: int, share: int, shares: int) -> list[tuple[str, int, int]]:
        """The shards of a reader's share in an epoch, each with the first sample to take and the step to the next.

        In training they are drawn anew in each epoch, alike by all readers: shares differ in size, and an image of a
        small one is seen more often.
        """
        shards = [*self.shards]
        if self.num_samples is not None:
            random.Random(f"{self.seed} {epoch}").shuffle(shards)
        if len(shards) >= shares:
            own = [(shard, 0, 1) for shard in shards[share::shares]]
        else:  # the starts are far apart, so that small shards leave few shares empty
            starts = [(share + i * shares // len(shards)) % shares for i in range(len(shards))]
            own = [(shard, start, shares) for shard, start in zip(shards, starts, strict=True)]
        if self.num_samples is not None:
            self.random.shuffle(own)
        return own

    def _shuffled(self, samples: Iterator[ShardSample]) -> Iterator[ShardSample]:
        buffer: list[ShardSample] = []
        waiting = 0  # bytes
        for sample in samples:
            waiting += sample.size
            if len(buffer) < self.shuffle and waiting <= MOST_WAITING:
                buffer.append(sample)
                continue
            if buffer:
                at = self.random.randrange(len(buffer))
                sample, buffer[at] = buffer[at], sample
            waiting -= sample.size
            yield sample
            while waiting > MOST_WAITING:
                at = self.random.randrange(len(buffer))
                buffer[at], buffer[-1] = buffer[-1], buffer[at]
                waiting -= buffer[-1].size
                yield buffer.pop()
        if buffer:
            self.random.shuffle(buffer)
        yield from buffer


class StreamLoader(DataLoader):
    """Tells the readers of a ShardStream at the start of each epoch the `progress` of the training."""

    progress: Callable[[], Progress] = Progress

    def __iter__(self) -> Any:
        assert isinstance(self.dataset, ShardStream)
        self.dataset.progress.copy_(torch.tensor(self.progress(), dtype=torch.float64))
        return super().__iter__()


class ShardLoaders(SuiteData):
    """Mixin for a task's data class: loaders over shards. `sources` are addresses, or patterns of files below root."""

    sources: dict[str, Any]
    streamed: tuple[Split, ...] = SPLITS  # the other splits are read from disk by image path

    def __init__(
        self, root: str, resolution: int, *, train_count: int | None, shuffle: int, cache_gb: float, **settings: Any
    ) -> None:
        if settings.get("views"):
            raise UserError("data.views needs images as files: with shards, set data.views=0")
        super().__init__(root, resolution, **settings)  # type: ignore[call-arg]  # the task's data class takes these
        self.train_count, self.shuffle, self.cache_bytes = train_count, shuffle, int(cache_gb * 1e9)

    def prepare(self) -> None:
        for split in ("val", "test"):  # `check` looks for those of train, in commands that train
            self.shards(split)

    def check(self) -> None:
        for split in SPLITS:
            self.shards(split)

    def shards(self, split: str) -> list[str]:
        """The shards of a split.

        Raises:
            UserError: there are none.
        """
        found = find_shards(self.root, self.sources[split])
        if not found:
            raise UserError(f"data.{split} names no shard")
        return found

    def survey(self, split: str, kinds: Sequence[str]) -> Iterator[ShardSample]:
        """The samples of a split on disk, with the content of these kinds of files only.

        Raises:
            UserError: a shard is not on disk.
        """
        for shard in self.shards(split):
            if is_address(shard):
                raise UserError(f"{shard} is not on disk, where its samples could be counted beforehand")
            try:
                yield from read_samples(shard, lambda kind: kind in kinds)
            except BadShard as error:
                log.warning("%s: %s", *error.args)

    def read_all(self, split: str, read: Callable[[ShardSample, Path], Found]) -> list[Found]:
        """The results of `read` for each sample of a split on disk, given its .json and the path of its image.

        Raises:
            UserError: a shard is not on disk, or more than the fraction `max_bad` of the samples cannot be used.
        """
        rejects, found, total = Rejects(self.root / self.sources[split]), [], 0
        for sample in self.survey(split, ("json",)):
            total += 1
            try:
                if sample.kind is None:
                    raise BadImage(Path(sample.name), "without an image")
                found.append(read(sample, Path(f"{sample.name}.{sample.kind}")))
            except BadImage as error:
                rejects.add(error.args[1], sample.name)
        rejects.report(total, self.max_bad)
        return found

    def num_images(self, split: Split) -> float:
        if split not in self.streamed:
            return super().num_images(split)
        if split != "train":
            return float("inf")  # unknown: they are streamed
        if self.train_count:
            return self.train_count
        if any(map(is_address, self.shards("train"))):
            raise UserError("remote shards need data.train_count=<number of images>")
        return self.count_train()

    def train_batches(self, processes: int) -> int:
        """As many from each reader, because processes wait for each other after each batch."""
        readers = max(1, self.workers)
        return max(1, int(self.num_images("train")) // (processes * readers * self.batch_size)) * readers

    def count_train(self) -> int:
        """The number of training samples in shards on disk."""
        raise NotImplementedError("a task on shards defines count_train")

    def stream(self, split: Split, **settings: Any) -> ShardStream:
        """The split's samples; `settings` are those of ShardStream."""
        raise NotImplementedError("a task on shards defines stream")

    def loader(self, split: Split) -> DataLoader:
        if split not in self.streamed:
            return super().loader(split)
        settings: dict[str, Any] = {"cache_bytes": self.cache_bytes, **self.random_state}
        num_samples = None
        if split == "train":
            num_samples = self.train_batches(settings["world_size"]) // max(1, self.workers) * self.batch_size
            settings |= {"num_samples": num_samples, "shuffle": self.shuffle}
            settings |= {"batches_done": self.batches_done, "batch_size": self.batch_size}
        dataset = self.stream(split, **settings)
        dataset.length = None if num_samples is None else num_samples * max(1, self.workers)
        warnings.filterwarnings("ignore", r"Your `IterableDataset` has `__len__` defined")  # ours is right
        loader = StreamLoader(dataset, batch_size=self.batch_size, **self.loader_settings())
        loader.progress = lambda: self.progress()
        return ended_at_exit(loader)


def image_of(sample: ShardSample) -> bytes:
    """The image among a sample's files.

    Raises:
        BadImage: there is none.
    """
    if sample.kind is None:
        raise BadImage(Path(sample.name), f"no image among its files ({', '.join(sample.files)})")
    return sample.files[sample.kind]
