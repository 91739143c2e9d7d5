"""The data of several tasks: their batches one after the other, in the order of a schedule."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch.utils.data import DataLoader

from backbones.errors import UserError
from data.base import SPLITS, Split, SuiteData, end_processes
from data.seeding import ShuffledEpochs, Stream
from tasks.engine.names import labels_of, task_of
from tasks.multitask.schedule import draw_epoch, shares


@dataclass
class JointBatch:
    """Batches with their tasks' names, in order: in training those of a step, else a single one."""

    rows: list[tuple[str, Any]]

    @property
    def bad(self) -> list[tuple[str, tuple[str, str]]]:
        """The task, and path and reason, of each image that could not be read."""
        return [(name, problem) for name, batch in self.rows for problem in batch.bad]

    def to(self, device: torch.device, non_blocking: bool = True) -> Self:
        for _, batch in self.rows:
            batch.to(device, non_blocking)
        return self

    def pin_memory(self) -> Self:
        for _, batch in self.rows:
            batch.pin_memory()
        return self


@dataclass(frozen=True)
class Named:
    """Collates a task's samples into a batch that names the task."""

    name: str
    collate: Any

    def __call__(self, samples: list[Any]) -> JointBatch:
        return JointBatch([(self.name, self.collate(samples))])


class JointLoader:
    """The steps of an epoch, each a JointBatch. A task's batches come from its loader, restarted as often as
    needed; each pass over it, in each epoch, has its own order. In the first epoch, the steps `given` before a resume
    are skipped.
    """

    def __init__(
        self, loaders: Mapping[str, DataLoader], wanted: Sequence[float], steps: int, seed: int, epoch: int, given: int
    ) -> None:
        self.loaders, self.wanted, self.steps, self.seed, self.epoch = loaders, wanted, steps, seed, epoch
        self.given = {epoch: given}

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[JointBatch]:
        epoch, names = self.epoch, list(self.loaders)
        self.epoch += 1
        given, rows = self.given.get(epoch, 0), draw_epoch(np.asarray(self.wanted), self.steps, self.seed, epoch)
        before = np.bincount(rows[:given].ravel(), minlength=len(names)).tolist()
        streams = [self._batches(*each) for each in zip(self.loaders.values(), before, itertools.repeat(epoch))]
        for row in rows[given:].tolist():
            yield JointBatch([(names[task], next(streams[task])) for task in row])

    def _batches(self, loader: DataLoader, given: int, epoch: int) -> Iterator[Any]:
        """The batches of a task in an epoch, without those used before a resume, which a stream reads and drops."""
        first = 0
        if isinstance(loader.sampler, ShuffledEpochs):
            assert loader.batch_size
            first, rest = divmod(given, max(1, len(loader)))
            loader.sampler.skip = {epoch * PASSES + first: rest * loader.batch_size}
            given = 0
        batches = self._passes(loader, epoch, first)
        return itertools.islice(batches, given, None)

    def _passes(self, loader: DataLoader, epoch: int, first: int) -> Iterator[Any]:
        for number in itertools.count(first):
            start_pass(loader, epoch, number)
            empty = True
            for batch in loader:
                empty = False
                yield batch
            if empty:
                raise UserError("a data set has fewer images than a batch of each process; lower data.batch_size")


def start_pass(loader: DataLoader, epoch: int, number: int) -> None:
    """Sets the number of the next pass over a loader, from which the order of its samples follows."""
    place = epoch * PASSES + number
    if isinstance(loader.sampler, ShuffledEpochs):
        loader.sampler.epoch = place
    elif isinstance(loader.dataset, Stream):
        loader.dataset.epoch = place
        if not number:  # loader processes count by themselves, from the number that they start with
            end_processes(loader)


PASSES = 1 << 16  # over a data set in an epoch, at most


class JointData(SuiteData):
    """The data sets of a run's tasks, by name. Tasks among `names` that are not trained have none; their labels come
    from the checkpoint that the run starts from, which `source` reads.
    """

    def __init__(
        self, parts: dict[str, SuiteData], *, names: Sequence[str], temperature: float, source: Any, resolution: int
    ) -> None:
        self.parts = parts
        super().__init__(str(next(iter(parts.values())).root))
        self.batch_size = sum(data.batch_size for data in parts.values())
        self.names, self.temperature, self.source = list(names), temperature, source
        self.loaders: list[DataLoader] = []
        self.known = None

    @property
    def read_only(self) -> bool:
        return any(data.read_only for data in self.parts.values())

    @read_only.setter
    def read_only(self, value: bool) -> None:
        for data in self.parts.values():
            data.read_only = value

    @property
    def known(self) -> list[str] | None:
        return self._known

    @known.setter
    def known(self, labels: list[str] | None) -> None:
        self._known = labels
        for name, data in self.parts.items():
            data.known = None if labels is None else labels_of(labels, name)

    def find_root(self) -> None:
        for data in self.parts.values():
            data.find_root()

    def prepare(self) -> None:
        for name, data in self.parts.items():
            with naming(name):
                data.prepare()

    @property
    def labels(self) -> list[str]:
        """The labels of all tasks, each with the name of its task and a slash in front."""
        found = [f"{name}/{label}" for name, data in self.parts.items() for label in data.labels]
        others = set(self.names) - self.parts.keys()
        if others:
            self.known = self.source() if self.known is None else self.known
            found += [label for label in self.known if task_of(label) in others]
        return found

    def use_labels(self, labels: list[str]) -> None:
        raise NotImplementedError("each task's data takes its own labels")

    def check(self) -> None:
        for name, data in self.parts.items():
            with naming(name):
                data.seed = self.seed
                data.check()

    def summary(self) -> str:
        return "; ".join(f"{name}: {data.summary()}" for name, data in self.parts.items())

    def setup(self, stage: str) -> None:
        self.note = " ".join(dict.fromkeys(data.note for data in self.parts.values() if data.note)) or None
        for data in self.parts.values():
            data.trainer, data.seed, data.epoch = self.trainer, self.seed, self.epoch
            data.progress = lambda: self.progress()

    def num_images(self, split: Split) -> float:
        return sum(data.num_images(split) for data in self.parts.values())

    def train_batches(self, processes: int) -> int:
        """Steps of an epoch, which has about as many batches as all data sets together, as many per step as tasks."""
        return max(1, sum(data.train_batches(processes) for data in self.parts.values()) // len(self.parts))

    def train_dataloader(self) -> JointLoader:
        assert self.trainer
        loaders = {name: self._keep(data.train_dataloader()) for name, data in self.parts.items()}
        wanted = shares([data.num_images("train") for data in self.parts.values()], self.temperature)
        steps = self.train_batches(self.trainer.world_size)
        return JointLoader(loaders, wanted.tolist(), steps, self.seed, self.epoch, self.batches_done)

    def state_dict(self) -> dict[str, Any]:
        return {name: data.state_dict() for name, data in self.parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, data in self.parts.items():
            data.load_state_dict(state[name])
        self.merge_bad_images()

    def val_dataloader(self) -> list[DataLoader]:
        return [self._named(name, data.val_dataloader()) for name, data in self.parts.items()]

    def test_dataloader(self) -> list[DataLoader]:
        return [self._named(name, data.test_dataloader()) for name, data in self.parts.items()]

    def _named(self, name: str, loader: DataLoader) -> DataLoader:
        loader.collate_fn = Named(name, loader.collate_fn)
        return self._keep(loader)

    def _keep(self, loader: DataLoader) -> DataLoader:
        self.loaders.append(loader)
        return loader

    def teardown(self, stage: str) -> None:
        """Ends the loader processes, which would outlive the run, as unfinished iterators keep the loaders alive."""
        for loader in self.loaders:
            end_processes(loader)
        self.loaders = []

    def record_bad_images(self, problems: Any, split: Split) -> None:
        for name, data in self.parts.items():
            own = [problem for task, problem in problems if task == name]
            with naming(name):
                data.record_bad_images(own, split)
        self.merge_bad_images()

    def merge_bad_images(self) -> None:
        for each in SPLITS:
            bad = {path: why for data in self.parts.values() for path, why in data.bad.get(each, {}).items()}
            salvaged = {path for data in self.parts.values() for path in data.salvaged.get(each, ())}
            self.bad |= {each: bad} if bad else {}
            self.salvaged |= {each: salvaged} if salvaged else {}


@contextmanager
def naming(task: str) -> Iterator[None]:
    """Puts the name of the task before the message of a UserError."""
    try:
        yield
    except UserError as error:
        if str(error).startswith(f"{task}: "):
            raise
        raise UserError(f"{task}: {error}") from error
