"""Embeddings of many photos, written in shards: any number of processes share the work, and a killed one goes on."""

import hashlib
import json
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
from backbones.files import BAD_ARRAY, atomic_write
from data.crops import read_whole
from data.image_file import BadImage
from tasks.engine.hardware import has_native_bf16
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
    digest.update(json.dumps([suite["resolution"], suite["backbone"]["normalization"]]).encode())
    for name, tensor in sorted(checkpoint["state_dict"].items()):
        if name.startswith("model.backbone."):
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def write_shards(
    model: GeoLocator,
    paths: Sequence[Path],
    folder: Path,
    *,
    resolution: int,
    shard_size: int,
    batch_size: int,
    rank: Rank,
) -> None:
    """Writes `folder`/000000.npy, ...: float16 (shard_size, D) in the order of the paths, NaN where unreadable.

    Shards that are there already are left alone. As many threads as torch uses read a batch while a GPU embeds the one
    before it; a processor does one after the other with all its cores, for threads that share a network's layers wait
    for each other wherever one of them has read an image. The network runs in bfloat16 where the hardware multiplies
    in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    device = next(model.parameters()).device
    workers = torch.get_num_threads()
    own = [
        part
        for number, part in enumerate(shards(len(paths), shard_size))
        if number % rank.count == rank.index and not shard_path(folder, part.start, shard_size).exists()
    ]
    batches = [part[i : i + batch_size] for part in own for i in range(0, len(part), batch_size)]

    def start(rows: range) -> tuple[Tensor, list[Future[list[int]]]]:
        images = torch.zeros(len(rows), 3, resolution, resolution, dtype=torch.uint8)
        images = images.contiguous(memory_format=torch.channels_last)
        return images, [pool.submit(read, images, rows, slice(i, None, workers)) for i in range(workers)]

    @torch.inference_mode()
    def read(images: Tensor, rows: range, share: slice) -> list[int]:
        bad = []
        for i in range(len(rows))[share]:
            try:
                images[i] = read_whole(paths[rows[i]], resolution)
            except BadImage:
                bad.append(i)
        return bad

    done: list[Halves] = []
    with ThreadPoolExecutor(workers) as pool, torch.inference_mode():
        reading = [start(rows) for rows in batches[:1]]
        for number, rows in enumerate(batches):
            images, parts = reading.pop()
            bad = [i for part in parts for i in part.result()]
            with torch.autocast(device.type, torch.bfloat16, enabled=has_native_bf16()):
                vectors = model.image_vectors(model.preprocess(images.to(device)))
            reading = [start(rows) for rows in batches[number + 1 : number + 2]]
            halves = vectors.cpu().half().numpy()
            halves[bad] = np.nan
            done.append(halves)
            if rows.stop % shard_size == 0 or rows.stop == len(paths):
                save_array(shard_path(folder, rows.start, shard_size), np.concatenate(done))
                done = []


def shards(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def shard_path(folder: Path, row: int, size: int) -> Path:
    """The shard that holds a row."""
    return folder / f"{row // size:06d}.npy"


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Writes an array atomically."""
    with atomic_write(path) as file:
        np.save(file, array)


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
            except (OSError, ValueError, *BAD_ARRAY) as error:
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
