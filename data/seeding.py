"""Random numbers that depend only on the seed and the position in training, so that a resumed run equals an
uninterrupted one.
"""

import random
import signal
from collections.abc import Callable, Iterator, Sized
from typing import Any, NamedTuple, cast

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


class Progress(NamedTuple):
    """How far a training is at the start of an epoch."""

    done: float = 0.0  # finished fraction
    epochs: float = 0.0  # of the whole training; by the clock it is an estimate, and 0 in the first epoch


class Seeded(Dataset[Any]):
    """A data set with the indices `(row, seed, progress)`: augmentation depends on the seed and on how far the training
    is, which is set as the wrapped data set's `progress`, but not on the process.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return num_items(self.dataset)

    def __getitem__(self, item: tuple[int, int, Progress]) -> Any:
        row, seed, progress = item
        seed_all(seed)
        cast(Any, self.dataset).progress = progress
        return self.dataset[row]


class Stream(IterableDataset[dict[str, Any]]):
    """A data set that is read from beginning to end, in an order that depends on `epoch`, the number of the next
    pass.
    """

    epoch: int


class ShuffledEpochs(DistributedSampler[tuple[int, int, Progress]]):
    """The rows of a data set in random order, each with a seed, both drawn from `seed` and the epoch's number, and
    with the training's `progress` when the epoch begins.

    With `weights` (N,) rows are drawn with replacement. The first epoch skips the first `skip` rows of this process. It
    distributes the rows over processes itself; Lightning does not replace a DistributedSampler. Each iteration is the
    next epoch, unless `set_epoch` is called.
    """

    def __init__(
        self,
        dataset: Dataset,
        weights: Tensor | None,
        progress: Callable[[], Progress],
        *,
        seed: int,
        epoch: int,
        rank: int,
        world_size: int,
        skip: int = 0,
    ) -> None:
        super().__init__(dataset, num_replicas=world_size, rank=rank, seed=seed)
        self.weights = weights
        self.progress = progress
        self.epoch = epoch
        self.skip = {epoch: skip}

    def __iter__(self) -> Iterator[tuple[int, int, Progress]]:
        images = num_items(self.dataset)
        first = np.random.SeedSequence((self.seed, self.epoch)).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(first) >> 1)
        skip = self.skip.get(self.epoch, 0)
        self.epoch += 1
        if self.weights is None:
            rows = torch.randperm(images, generator=generator)
        else:
            rows = torch.multinomial(self.weights, images, replacement=True, generator=generator)
        rows = rows.repeat(-(-self.total_size // images))[: self.total_size]  # equal shares for all processes
        seeds = torch.randint(2**62, rows.shape, generator=generator)
        own = slice(self.rank + skip * self.num_replicas, None, self.num_replicas)
        progress = self.progress()
        drawn = zip(rows[own].numpy(), seeds[own].numpy(), strict=True)
        return ((int(row), int(seed), progress) for row, seed in drawn)
