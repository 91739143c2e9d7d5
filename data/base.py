"""What the data of every task shares: loaders, and the record of images that could not be read."""

import atexit
import logging
import math
import sys
import weakref
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from backbones.errors import UserError
from backbones.processors import usable_cores
from data.files import unread
from data.image_file import MAX_PIXELS, SALVAGED, limit_pixels
from data.seeding import Progress, Seeded, ShuffledEpochs, ignore_signals, num_items
from data.splits import FILE as SPLITS_FILE
from data.splits import draw_splits, source_name
from data.tar import SampleSource

if TYPE_CHECKING:
    from lightning import LightningDataModule as Base
else:  # tasks.engine.lightning makes it a LightningDataModule before a Trainer gets it
    Base = object

log = logging.getLogger(__name__)

Split = Literal["train", "val", "test"]
FEW_BAD = 5  # fewer unreadable images never stop a run, unless max_bad is 0
CACHE_BYTES = 2e9  # limit for a split's decoded images in all loader processes together, if cache_images is auto
SPLITS: tuple[Split, ...] = ("train", "val", "test")


def start_worker(max_pixels: int, _: int) -> None:
    """Runs at the start of each loader process, which does not always inherit this one's pixel limit."""
    limit_pixels(max_pixels)
    ignore_signals()


def end_processes(loader: DataLoader) -> None:
    """Ends a loader's processes; new ones start when it is iterated again."""
    if isinstance(loader._iterator, _MultiProcessingDataLoaderIter):
        loader._iterator._shutdown_workers()
    loader._iterator = None


def ended_at_exit(loader: DataLoader) -> DataLoader:
    """Returns the loader, whose processes are ended when this one exits: otherwise Python would send them SIGTERM,
    which they ignore, and wait for them.
    """
    reference = weakref.ref(loader)

    def end() -> None:
        if (found := reference()) is not None:
            end_processes(found)

    atexit.register(end)
    return loader


def spawning() -> str:
    """The start method of loader processes in a run on several devices. A fork can deadlock while Gloo starts threads
    (CPython 3.11); a fork server and its loaders would outlive a killed process.
    """
    quiet = "ignore:resource_tracker"  # the tracker warns of what a killed process has left, and removes it
    if quiet not in sys.warnoptions:
        sys.warnoptions.append(quiet)  # the resource tracker's process inherits these
    return "spawn"


@dataclass
class Batch:
    """The fields of every task's batch; a task adds its targets, tensors whose first dimension is the batch.

    `images` are (B, 3, R, R) uint8, `sizes` (B, 2) the height and width of each file, `bad` the path and reason of each
    image that could not be read, or only in part (SALVAGED).
    """

    images: Tensor
    sizes: Tensor
    bad: list[tuple[str, str]]

    def to(self, device: torch.device, non_blocking: bool = True) -> Self:
        """Used by Lightning to move the batch, in place."""
        # elsewhere, such as on Apple's GPUs, the source could be freed, and overwritten, before it is copied
        unblocked = non_blocking and device.type == "cuda"
        return self._map(lambda tensor: tensor.to(device, non_blocking=unblocked))

    def pin_memory(self) -> Self:
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                setattr(self, field.name, change(value))
        return self


class SuiteData(Base):
    """Loaders over the splits of a data set. The subclass of a data format defines `labels`, `build_dataset`
    and perhaps `prepare`.

    Raises:
        UserError: `root` is absent, or too many images are unreadable.
    """

    collate: Callable[[list[Any]], Any]
    note: str | None = None  # a caveat that every report on this data repeats
    read_only = False  # whether nothing may be written in `root`: a checkpoint names it, or it is only checked
    known: list[str] | None = None  # the labels of the checkpoint that training starts from
    cache_images: bool | Literal["auto"] = False  # whether decoded images are kept in memory
    choices = ""  # automatic choices to report, such as a drawn split

    def __init__(
        self,
        root: str,
        *,
        batch_size: int = 16,
        workers: int | Literal["auto"] = "auto",
        max_bad: float = 0.01,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.trainer = None  # Lightning's, while it uses this data
        self.root = Path(root)
        self.batch_size = batch_size
        # training itself needs a core or two; more than 8 loaders rarely help
        self.workers = min(8, max(1, usable_cores() - 1)) if workers == "auto" else workers
        self.max_bad = max_bad
        self.max_pixels = max_pixels
        limit_pixels(max_pixels)
        self.bad: dict[Split, dict[str, str]] = {}  # path and reason of unreadable images, by split
        self.salvaged: dict[Split, set[str]] = {}  # truncated images that are used in part
        self.datasets: dict[Split, Dataset] = {}
        self.progress: Callable[[], Progress] = Progress  # of the training, set by a run
        self.seed = 0  # of shuffling and augmentation
        self.epoch = 0  # the first to train; Lightning makes loaders before it knows the epoch
        self.batches_done = 0  # batches of that epoch that were trained on before resuming

    def find_root(self) -> None:
        """Raises UserError if `root` is not a folder."""
        if not self.root.is_dir():
            raise UserError(f"data.root: there is no folder {self.root}; give the folder of your data with data.root=")

    def prepare(self) -> None:
        """Prepares the files, once in each process before anything is read.

        Raises:
            UserError: they are absent.
        """
        self.find_root()

    @property
    def labels(self) -> list[str]:
        """Names of the classes, in the order of their indices."""
        raise NotImplementedError("a data format defines labels")

    def use_labels(self, labels: list[str]) -> None:
        """Prepares to evaluate a model with these classes.

        Raises:
            UserError: the data has other classes.
        """
        if self.labels != labels:
            raise UserError(f"the checkpoint knows the classes {labels}, the data has {self.labels}")

    def build_dataset(self, split: Split) -> Dataset:
        """The samples of a split."""
        raise NotImplementedError("a data format defines build_dataset")

    def dataset(self, split: Split) -> Dataset:
        """The result of `build_dataset`, made once."""
        if split not in self.datasets:
            self.datasets[split] = self.build_dataset(split)
        return self.datasets[split]

    def check(self) -> None:
        """Opens all splits, so that errors in one are found before the first step.

        Raises:
            UserError: a split is absent, empty, in another format or has other classes.
        """
        for split in SPLITS[:2]:
            self.dataset(split)
        self.build_dataset("test")

    def warn_of_unread(self, images: Iterable[Path]) -> None:
        """Logs how many files beside the images are photos of formats that are not read."""
        if words := unread({path.parent for path in images}):
            log.warning("%s: %s", self.root, words)

    def summary(self) -> str:
        """How many images the opened splits have, as far as is known."""
        counts = {split: self.num_images(split) for split in self.datasets}
        known = [f"{count:.0f} {split}" for split, count in counts.items() if math.isfinite(count)]
        return f"{', '.join(known)} images" if known else ""

    def draw_val(
        self,
        keys: Sequence[str],
        strata: Sequence[Hashable] | None = None,
        groups: Sequence[Hashable] | None = None,
        file: str = SPLITS_FILE,
    ) -> dict[str, str]:
        """The split, train or val, of each key, by `data.splits.draw_splits`; without `groups`, the copies of an
        image stay together.
        """
        groups = groups or [*map(source_name, keys)]
        self.add_choice(f"a random fifth for val ({file})")
        return draw_splits(self.root, keys, strata, groups, file, write=not self.read_only)

    def add_choice(self, what: str) -> None:
        self.choices = ", ".join(part for part in (self.choices, what) if part)

    @property
    def random_state(self) -> dict[str, int]:
        """Seed, first epoch, rank and world size, from which all randomness follows."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return {"seed": self.seed, "epoch": self.epoch, "rank": rank, "world_size": world_size}

    def keeps_images(self, needed: int) -> bool:
        """Whether each loader process keeps its decoded images in memory, which takes `needed` bytes."""
        return needed * max(1, self.workers) < CACHE_BYTES if self.cache_images == "auto" else self.cache_images

    def images_per_item(self, split: Split) -> int:
        """How many images an item of the split's dataset has."""
        return 1

    def sample_sources(self, split: Any) -> list[SampleSource]:
        """The images of a split, with the annotations that a shard stores for them.

        Raises:
            UserError: shards cannot store this task's data.
        """
        raise UserError("this task's data cannot be written as shards: choose classification, detection, faces or geo")

    def examples(self) -> dict[str, int]:
        """How many training examples each class has; empty if that is not known, or there are no classes."""
        return {}

    def sampling_weights(self, dataset: Dataset) -> Tensor | None:
        """Relative frequencies (N,) at which training samples are drawn; None if uniform."""
        return None

    def loader(self, split: Split) -> DataLoader:
        """Batches of a split. Train is shuffled, and drops an incomplete last batch unless it is the only one."""
        dataset = self.dataset(split)
        train, batch_size = split == "train", self.items_per_batch(split)
        if train and num_items(dataset) < 2:
            raise UserError(f"{self.root}: training needs at least two images")
        weights = self.sampling_weights(dataset) if train else None
        skip = self.batches_done * batch_size
        sampler = (
            ShuffledEpochs(dataset, weights, lambda: self.progress(), skip=skip, **self.random_state) if train else None
        )
        loader: DataLoader = DataLoader(
            Seeded(dataset) if train else dataset,
            batch_size=batch_size,
            sampler=sampler,
            drop_last=sampler is not None and len(sampler) > batch_size,  # in this process
            **self.loader_settings(),
        )
        return ended_at_exit(loader)

    def loader_settings(self) -> dict[str, Any]:
        """The DataLoader arguments that all loaders share."""
        forked = self.workers == 0 or self.random_state["world_size"] == 1
        return {
            "num_workers": self.workers,
            "persistent_workers": self.workers > 0,
            "collate_fn": self.collate,
            "pin_memory": self.pinned,
            "worker_init_fn": partial(start_worker, self.max_pixels),
            "multiprocessing_context": None if forked else spawning(),
        }

    @property
    def pinned(self) -> bool:
        """Whether batches go to a GPU."""
        return self.trainer is not None and self.trainer.accelerator.__class__.__name__ == "CUDAAccelerator"

    def num_images(self, split: Split) -> float:
        """How many images a split has."""
        return num_items(self.dataset(split)) * self.images_per_item(split)

    def items_per_batch(self, split: Split) -> int:
        return max(1, self.batch_size // self.images_per_item(split))

    def train_batches(self, processes: int) -> int:
        """How many batches an epoch has in each process."""
        items = math.ceil(num_items(self.dataset("train")) / processes)
        return max(1, items // self.items_per_batch("train"))

    def train_dataloader(self) -> Any:
        return self.loader("train")

    def val_dataloader(self) -> Any:
        return self.loader("val")

    def test_dataloader(self) -> Any:
        return self.loader("test")

    def state_dict(self) -> dict[str, Any]:
        """The record of images that could not be read, for a run that resumes within an epoch."""
        bad = {split: dict(images) for split, images in self.bad.items()}
        return {"bad": bad, "salvaged": {split: sorted(paths) for split, paths in self.salvaged.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for split in SPLITS:
            if split in state["bad"]:
                self.bad[split] = {str(path): str(reason) for path, reason in state["bad"][split].items()}
            if split in state["salvaged"]:
                self.salvaged[split] = {str(path) for path in state["salvaged"][split]}

    def record_bad_images(self, problems: Iterable[tuple[str, str]], split: Split) -> None:
        """Counts unreadable and salvaged images of a split, each once.

        Raises:
            UserError: more than the fraction `data.max_bad` is unreadable, and at least five images, or `max_bad` is 0.
        """
        bad, total = self.bad.setdefault(split, {}), self.num_images(split)
        for path, reason in problems:
            if reason == SALVAGED:
                self.salvaged.setdefault(split, set()).add(path)
            elif path not in bad:
                bad[path] = reason
                log.warning("skipped %s: %s", path, reason)
        allowed = self.max_bad * total if self.max_bad else 0.0  # total is infinite for a stream
        if len(bad) > allowed and (len(bad) >= FEW_BAD or not self.max_bad):
            path, reason = next(iter(bad.items()))
            raise UserError(
                f"{len(bad)} of {total} {split} images cannot be read, more than data.max_bad={self.max_bad:g} "
                f"allows; the first is {path}: {reason}"
            )
