"""Embeddings of many photos, written in shards: several processes share the work, and a killed one resumes."""

import hashlib
import json
import mmap
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from backbones.errors import UserError
from backbones.files import BAD_ARRAY, atomic_write, check_regular
from data.crops import read_whole
from data.geo.s2 import Bools, Ints
from data.image_file import BadImage
from tasks.engine.hardware import has_fast_bf16
from tasks.geo.model import GeoLocator

Halves = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Worker:
    """One of the processes that share the embedding: its rank, and their number."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    def join(cls) -> "Worker":
        """Joins the other processes if torchrun started several."""
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return cls()
        dist.init_process_group("gloo", timeout=timedelta(days=7))
        return cls(dist.get_rank(), dist.get_world_size())

    def wait(self) -> None:
        """Blocks until all processes call it."""
        if self.world_size > 1:
            dist.barrier()


def fingerprint(checkpoint: dict[str, Any]) -> str:
    """A digest of everything that embeddings depend on: it identifies the model that made them."""
    suite, digest = checkpoint["suite"], hashlib.sha256()
    digest.update(json.dumps([suite["resolution"], suite["backbone"]["normalization"]]).encode())
    for name, tensor in sorted(checkpoint["state_dict"].items()):
        if name.startswith("model.backbone."):
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def write_embeddings(
    model: GeoLocator,
    paths: Sequence[Path],
    folder: Path,
    *,
    resolution: int,
    shard_size: int,
    batch_size: int,
    worker: Worker,
) -> None:
    """Writes `folder`/000000.npy, ...: float16 (shard_size, D) in the order of the paths, NaN if unreadable. Existing
    shards are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    batches = missing_batches(folder, len(paths), shard_size, batch_size, worker)
    done: list[Halves] = []
    for rows, vectors in embedded(model, paths, batches, resolution):
        done.append(vectors)
        if rows.stop % shard_size == 0 or rows.stop == len(paths):
            save_array(shard_path(folder, rows.start, shard_size), np.concatenate(done))
            done = []


def missing_batches(folder: Path, count: int, shard_size: int, batch_size: int, worker: Worker) -> list[range]:
    """The rows, batch by batch, of this worker's shards that are not written yet."""
    own = [
        part
        for number, part in enumerate(shards(count, shard_size))
        if number % worker.world_size == worker.rank and not shard_path(folder, part.start, shard_size).exists()
    ]
    return [part[i : i + batch_size] for part in own for i in range(0, len(part), batch_size)]


def embedded(
    model: GeoLocator, paths: Sequence[Path], batches: Sequence[range], resolution: int
) -> Iterator[tuple[range, Halves]]:
    """Each batch of rows with its embeddings (B, D), NaN if unreadable.

    While a GPU embeds a batch, as many threads as torch uses read the next one. On a CPU, reading and embedding
    alternate, each on all cores: at the same time, torch's threads would wait for those that read.
    """
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:

        def start(rows: range) -> tuple[Tensor, list[Future[list[int]]]]:
            files = [paths[row] for row in rows]
            images = torch.zeros(len(rows), 3, resolution, resolution, dtype=torch.uint8)
            images = images.contiguous(memory_format=torch.channels_last)
            return images, [pool.submit(read_into, images, files, slice(i, None, threads)) for i in range(threads)]

        reading = [start(rows) for rows in batches[:1]]
        for number, rows in enumerate(batches):
            images, parts = reading.pop()
            bad = [i for part in parts for i in part.result()]
            vectors = embed(model, images)
            reading = [start(following) for following in batches[number + 1 : number + 2]]
            halves = vectors.cpu().half().numpy()
            halves[bad] = np.nan
            yield rows, halves


def read_into(images: Tensor, files: Sequence[Path], share: slice) -> list[int]:
    """Reads a share of the files into images (B, 3, R, R) uint8; returns the indices of the unreadable ones."""
    bad = []
    for i in range(len(files))[share]:
        try:
            images[i] = read_whole(files[i], images.shape[-1])
        except BadImage:
            bad.append(i)
    return bad


@torch.inference_mode()
def embed(model: GeoLocator, images: Tensor) -> Tensor:
    """Embeddings (B, D) of uint8 images (B, 3, R, R), in bfloat16 if the hardware is faster in it."""
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bf16(device.type)):
        return model.image_vectors(model.preprocess(images.to(device)))


def shards(count: int, size: int) -> Iterator[range]:
    return (range(start, min(start + size, count)) for start in range(0, count, size))


def shard_path(folder: Path, row: int, size: int) -> Path:
    """The shard that holds a row."""
    return folder / f"{row // size:06d}.npy"


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Writes an array atomically."""
    with atomic_write(path) as file:
        np.save(file, array)


def leave_memory(table: Any) -> None:
    """Releases the pages of a memory-mapped array; the next access maps them again."""
    table.base.madvise(mmap.MADV_DONTNEED)


class Embeddings:
    """The shards of a folder as one table; they stay on disk, and are read one at a time.

    `rows` (N,) are those of the readable photos.

    Raises:
        UserError: a shard is missing, damaged or of another length, or no photo could be read.
    """

    def __init__(self, folder: Path, count: int, size: int) -> None:
        self.folder, self.size = folder, size
        self.tables: list[Halves] = []
        self.good: list[Bools] = []
        for part in shards(count, size):
            path = shard_path(folder, part.start, size)
            try:
                check_regular(path, None)
                table = np.load(path, mmap_mode="r")
                like = self.tables[0] if self.tables else table
                if table.ndim != 2 or table.shape[1] != like.shape[1] or table.dtype != np.float16:
                    raise ValueError("not a table of embeddings")
            except (OSError, ValueError, *BAD_ARRAY) as error:
                raise UserError(f"the shard {path} is missing or damaged; delete it and build again") from error
            if len(table) != len(part):
                raise UserError(
                    f"the shard {path} has {len(table)} rows and not {len(part)}; delete it and build again"
                )
            self.tables.append(table)
            self.good.append(~np.isnan(table[:, 0]))
            leave_memory(table)
        self.rows = np.flatnonzero(np.concatenate(self.good)) if self.good else np.empty(0, np.int64)
        if not len(self.rows):
            raise UserError(f"none of the {count} photos of the gallery can be read")
        self.dim: int = self.tables[0].shape[1]

    def shard(self, number: int, rows: Bools) -> npt.NDArray[np.float32]:
        """The embeddings (n, D) of a shard's rows that are true in the mask `rows` (shard size,)."""
        found: npt.NDArray[np.float32] = self.tables[number][rows].astype(np.float32)
        leave_memory(self.tables[number])
        return found

    def chunks(self) -> Iterator[npt.NDArray[np.float32]]:
        """Embeddings (n, D) shard by shard."""
        return (self.shard(number, rows) for number, rows in enumerate(self.good))

    def sample(self, count: int) -> npt.NDArray[np.float32]:
        """About `count` embeddings at random, or all of them (n, D)."""
        rng, share = np.random.default_rng(0), count / len(self.rows)
        chosen = [good & (rng.random(len(good)) < share) if share < 1 else good for good in self.good]
        found = np.empty((sum(int(rows.sum()) for rows in chosen), self.dim), np.float32)
        start = 0
        for number, rows in enumerate(chosen):
            part = self.shard(number, rows)
            found[start : (start := start + len(part))] = part
        return found

    def remove(self, rows: Ints, mark: str) -> None:
        """Removes rows (n,), ascending, from the table, as if their photos could not be read. The shards on disk stay;
        copies without these rows are written beside them, as <number>-<mark>.npy.
        """
        if not len(rows):
            return
        for own in np.split(rows, np.flatnonzero(np.diff(rows // self.size)) + 1):
            number, lost = own[0] // self.size, own % self.size
            self.good[number][lost] = False
            table = np.array(self.tables[number])
            table[lost] = np.nan
            save_array(self.folder / f"{number:06d}-{mark}.npy", table)
        self.rows = np.setdiff1d(self.rows, rows, assume_unique=True)
