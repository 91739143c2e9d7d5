"""Embeddings of many photos, written in shards: any number of processes share the work, and a killed one goes on."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from backbones.errors import UserError
from data.crops import read_whole
from data.images import BadImage
from tasks.geo.model import GeoLocator

Halves = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Rank:
    """Which of how many processes this is."""

    index: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> "Rank":
        """Meets the other processes where torchrun started several."""
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return cls()
        dist.init_process_group("gloo", timeout=timedelta(days=7))
        return cls(dist.get_rank(), dist.get_world_size())

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            dist.barrier()


def fingerprint(checkpoint: dict[str, Any]) -> str:
    """Tells embeddings of one model from another's: a digest of all that they depend on."""
    suite, digest = checkpoint["suite"], hashlib.sha256()
    digest.update(json.dumps([suite["resolution"], suite["normalization"]]).encode())
    for name, tensor in sorted(checkpoint["state_dict"].items()):
        if name.startswith("model.backbone."):
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


class Pictures(Dataset[tuple[Tensor, int]]):
    """The pictures (3, R, R) uint8 of some paths, each with its row, or -1 - row where it cannot be read."""

    def __init__(self, paths: Sequence[Path], resolution: int) -> None:
        self.paths = paths
        self.resolution = resolution

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        try:
            return read_whole(self.paths[row], self.resolution), row
        except BadImage:
            return torch.zeros(3, self.resolution, self.resolution, dtype=torch.uint8), -1 - row


def write_shards(
    model: GeoLocator,
    paths: Sequence[Path],
    folder: Path,
    *,
    resolution: int,
    shard_size: int,
    batch_size: int,
    workers: int,
    rank: Rank,
) -> None:
    """Writes `folder`/000000.npy, ...: float16 (shard_size, D) in the order of the paths, NaN where unreadable.

    Shards that are there already are left alone. A shard's batches are the same whoever computes it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = [
        part
        for number, part in enumerate(shards(len(paths), shard_size))
        if number % rank.count == rank.index and not shard_path(folder, part.start, shard_size).exists()
    ]
    batches = [list(range(i, min(i + batch_size, s.stop))) for s in own for i in range(s.start, s.stop, batch_size)]
    loader = DataLoader(Pictures(paths, resolution), batch_sampler=batches, num_workers=workers)
    device = next(model.parameters()).device
    done: list[Halves] = []
    with torch.inference_mode():
        for images, rows in loader:
            vectors = model.embed(model.preprocess(images.to(device, non_blocking=True))).cpu().numpy()
            vectors[rows.numpy() < 0] = np.nan
            done.append(vectors.astype(np.float16))
            last = max(int(rows[-1]), -1 - int(rows[-1]))
            if (last + 1) % shard_size == 0 or last + 1 == len(paths):
                save_array(shard_path(folder, last, shard_size), np.concatenate(done))
                done = []


def shards(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def shard_path(folder: Path, row: int, size: int) -> Path:
    """The shard that holds a row."""
    return folder / f"{row // size:06d}.npy"


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Writes an array whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    with partial.open("wb") as file:
        np.save(file, array)
    partial.replace(path)


class Embeddings:
    """The shards of a folder as one table; they stay on disk, and are read one at a time.

    `rows` (N,) are those of the photos that could be read.

    Raises:
        UserError: a shard is missing, damaged or of another length, or no photo could be read.
    """

    def __init__(self, folder: Path, count: int, size: int) -> None:
        self.tables, self.good = [], []
        for part in shards(count, size):
            path = shard_path(folder, part.start, size)
            try:
                table = np.load(path, mmap_mode="r")
            except (OSError, ValueError) as error:
                raise UserError(f"the shard {path} is missing or damaged; delete it and build again") from error
            if len(table) != len(part):
                raise UserError(
                    f"the shard {path} has {len(table)} rows and not {len(part)}; delete it and build again"
                )
            self.tables.append(table)
            self.good.append(~np.isnan(table[:, 0]))
        self.rows = np.flatnonzero(np.concatenate(self.good)) if self.good else np.empty(0, np.int64)
        if not len(self.rows):
            raise UserError(f"none of the {count} photos of the gallery can be read")
        self.dim: int = self.tables[0].shape[1]

    def chunks(self, most: float = 1.0) -> Iterator[npt.NDArray[np.float32]]:
        """Embeddings (n, D) shard by shard; of each a random share `most`."""
        rng = np.random.default_rng(0)
        for table, good in zip(self.tables, self.good, strict=True):
            chosen = good if most >= 1 else good & (rng.random(len(good)) < most)
            yield table[chosen].astype(np.float32)

    def sample(self, count: int) -> npt.NDArray[np.float32]:
        """About `count` embeddings at random, or all of them (n, D)."""
        return np.concatenate(list(self.chunks(count / len(self.rows))))
