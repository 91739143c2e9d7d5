"""Random numbers that depend only on the seed and the position in training, so that a resumed run equals an
uninterrupted one.
"""

import random
import signal
from collections.abc import Callable, Iterator, Sized
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler, IterableDataset


def seed_all(*words: int) -> None:
    """Seeds Python, NumPy and torch's CPU generator with non-negative numbers that identify a position in training.

    Not by `torch.manual_seed`, which records a stack trace while CUDA is not initialised: too slow for each sample.
    """
    state = [int(v) for v in np.random.SeedSequence(words).generate_state(2, np.uint64)]
    random.seed(state[0])
    np.random.seed(state[0] & 0xFFFFFFFF)  # noqa: NPY002  # a user's data set may use it
    torch.default_generator.manual_seed(state[1] >> 1)


def ignore_signals() -> None:
    """For loader processes, which the training process stops: signals often go to the whole process group."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def num_items(dataset: Dataset) -> int:
    """The number of items of a data set that is not a stream; torch's Dataset does not declare `__len__`."""
    return len(cast(Sized, dataset))


class Seeded(Dataset[Any]):
    """A data set with the indices `(row, seed, epoch, done)`: augmentation depends on the seed, the epoch's number and
    the finished fraction of the training, which are set as the wrapped data set's `epoch` and `done`, but not on the
    process.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return num_items(self.dataset)

    def __getitem__(self, item: tuple[int, int, int, float]) -> Any:
        row, seed, epoch, done = item
        seed_all(seed)
        dataset = cast(Any, self.dataset)
        dataset.epoch, dataset.done = epoch, done
        return self.dataset[row]


class Stream(IterableDataset[dict[str, Any]]):
    """A data set that is read from beginning to end, in an order that depends on `epoch`, the number of the next
    pass.
    """

    epoch: int


class ShuffledEpochs(DistributedSampler[tuple[int, int, int, float]]):
    """The rows of a data set in random order, each with a seed, both drawn from `seed` and the epoch's number, with
    that number, and with the fraction of the training that is `done` when the epoch begins.

    With `weights` (N,) rows are drawn with replacement. The first epoch skips the first `skip` rows of this process. It
    distributes the rows over processes itself; Lightning does not replace a DistributedSampler. Each iteration is the
    next epoch, unless `set_epoch` is called.
    """

    def __init__(
        self,
        dataset: Dataset,
        weights: Tensor | None,
        done: Callable[[], float],
        *,
        seed: int,
        epoch: int,
        rank: int,
        world_size: int,
        skip: int = 0,
    ) -> None:
        super().__init__(dataset, num_replicas=world_size, rank=rank, seed=seed)
        self.weights = weights
        self.done = done
        self.epoch = epoch
        self.skip = {epoch: skip}

    def __iter__(self) -> Iterator[tuple[int, int, int, float]]:
        images = num_items(self.dataset)
        first = np.random.SeedSequence((self.seed, self.epoch)).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(first) >> 1)
        epoch, skip = self.epoch, self.skip.get(self.epoch, 0)
        self.epoch += 1
        if self.weights is None:
            rows = torch.randperm(images, generator=generator)
        else:
            rows = torch.multinomial(self.weights, images, replacement=True, generator=generator)
        rows = rows.repeat(-(-self.total_size // images))[: self.total_size]  # equal shares for all processes
        seeds = torch.randint(2**62, rows.shape, generator=generator)
        own = slice(self.rank + skip * self.num_replicas, None, self.num_replicas)
        done = self.done()
        drawn = zip(rows[own].numpy(), seeds[own].numpy(), strict=True)
        return ((int(row), int(seed), epoch, done) for row, seed in drawn)
