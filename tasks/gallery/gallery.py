"""Galleries: photos with known positions, to be searched for those most similar to a query.

A gallery is a folder: the embeddings in shards, the FAISS index, positions, paths, and gallery.json, which names the
model.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch

from backbones.errors import UserError
from backbones.files import BAD_ARRAY, atomic_write, check_regular, folder_lock
from data.geo.positions import Places
from data.geo.s2 import Floats, Ints
from data.text import read_json, read_names
from tasks.engine.task import restore
from tasks.gallery import blocks
from tasks.gallery.embed import Embeddings, Worker, fingerprint, save_array, write_embeddings
from tasks.gallery.index import (
    bytes_per_vector,
    factory_string,
    lists_of,
    make_index,
    read_index,
    train_index,
    training_count,
    tune,
    write_index,
)
from tasks.geo.model import GeoLocator

log = logging.getLogger(__name__)

VERSION = 1
MAX_BYTES = 1 << 26  # of its JSON files
REWRITTEN = "embeddings/*/*-*.npy"  # shards rewritten without the photos that a generation removed


@dataclass
class Part:
    """Photos that were added together; `digest` is of their paths. A removal is recorded as a part without photos."""

    name: str
    photos: int
    digest: str


@dataclass
class GalleryInfo:
    """The content of gallery.json."""

    model: str
    dim: int
    shard_size: int
    factory: str
    photos: int  # readable ones, which are in the index
    parts: list[Part]
    version: int = VERSION

    @property
    def is_valid(self) -> bool:
        """Whether all values from a file have the right type."""
        counts = (self.dim, self.shard_size, self.photos, self.version, *(part.photos for part in self.parts))
        names = (self.model, self.factory, *(word for part in self.parts for word in (part.name, part.digest)))
        whole = all(type(n) is int and n >= 0 for n in counts) and all(type(word) is str for word in names)
        return whole and self.shard_size > 0

    def write(self, folder: Path) -> None:
        with atomic_write(folder / "gallery.json", "w") as file:
            json.dump(asdict(self), file, indent=2)

    @classmethod
    def read(cls, folder: Path, model: str) -> "GalleryInfo":
        """Raises UserError if there is no gallery, or it is another model's."""
        path = folder / "gallery.json"
        if not path.exists():
            raise UserError(f"{folder} holds no gallery; make one with mode=build")
        try:
            content = read_json(path, MAX_BYTES)
            info = cls(**{**content, "parts": [Part(**part) for part in content["parts"]]})
            if not info.is_valid:
                raise ValueError("a value of the wrong type")
        except (UserError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is damaged: build the gallery again") from error
        if info.version > VERSION:
            raise UserError(f"the gallery {folder} was written by a newer version of this suite; update to read it")
        if info.model != model:
            raise UserError(
                f"the gallery {folder} was built by another model ({info.model}, this one is {model}); build its own"
            )
        return info


class Neighbours(NamedTuple):
    """The most similar photos of B queries, best first: rows, inner products (B, K) and positions (B, K, 2). Where an
    approximate index finds fewer than K, the best one stands in for the others, with the inner product -inf; where it
    finds none, that is any photo.
    """

    rows: Ints
    similarities: Floats
    positions: Floats

    def found(self, query: int) -> "Neighbours":
        """The neighbours found for one query: (n,), (n,) and (n, 2)."""
        kept = np.isfinite(self.similarities[query])
        return Neighbours(self.rows[query][kept], self.similarities[query][kept], self.positions[query][kept])


class Gallery:
    """An index with the positions and paths of its photos, memory-mapped."""

    def __init__(self, folder: Path, model: str) -> None:
        self.folder = folder
        self.info = GalleryInfo.read(folder, model)
        generation = len(self.info.parts)
        self.index = read_index(folder / f"index-{generation}.faiss")
        tune(self.index)
        try:
            check_regular(positions := folder / f"positions-{generation}.npy", None)
            self.positions: Floats = np.load(positions, mmap_mode="r")
            self.paths = read_names(folder / f"paths-{generation}.txt")
        except (OSError, ValueError, UserError, *BAD_ARRAY) as error:
            raise UserError(f"the gallery {folder} is damaged ({error}): build it again") from error
        whole = self.index.ntotal == len(self.paths) == self.info.photos and self.index.d == self.info.dim
        if not whole or self.positions.shape != (self.info.photos, 2) or self.positions.dtype.kind != "f":
            raise UserError(f"the gallery {folder} is damaged: its files do not fit together; build it again")

    def __len__(self) -> int:
        return self.info.photos

    def search(self, vectors: npt.ArrayLike, k: int) -> Neighbours:
        """The k nearest neighbours of queries (B, D). Raises UserError if the index is damaged."""
        similarities, rows = self.index.search(np.ascontiguousarray(vectors, np.float32), k)
        if len(rows) and not -1 <= rows.min() <= rows.max() < len(self):
            raise UserError(f"the gallery {self.folder} is damaged: its index has other photos; build it again")
        found = rows >= 0
        rows = np.where(found, rows, rows[:, :1])
        return Neighbours(rows, np.where(found, similarities, -np.inf), np.asarray(self.positions[rows]))


def build_gallery(
    folder: Path,
    checkpoint: dict[str, Any],
    places: Places,
    *,
    index: str,
    shard_size: int,
    batch_size: int,
    worker: Worker | None = None,
) -> None:
    """Embeds the photos that are not embedded yet, and indexes them; every process of a torchrun calls it. As a given
    `worker`, this process embeds its shards only; once all are done, a call without one indexes them.

    Raises:
        UserError: the folder holds a gallery, or unfinished embeddings of another model or of other photos.
    """
    only_embeds, model = worker is not None, fingerprint(checkpoint)
    worker = worker or Worker.join()
    part = Part("0", len(places), _digest(places))
    if (folder / "gallery.json").exists():
        info = GalleryInfo.read(folder, model)
        raise UserError(f"{folder} holds a gallery of {info.photos} photos already; use mode=add or another folder")
    _claim(folder, model, part, shard_size)
    dim, count = embedding_dim(checkpoint), len(places)
    factory = factory_string(index, count, dim)
    size = bytes_per_vector(make_index(factory, dim))
    log.info("index %s: about %d bytes a photo, %.4f GB for %d photos", factory, size, size * count / 1e9, count)
    target = folder / "embeddings" / part.name
    _embed(target, checkpoint, places, worker, shard_size=shard_size, batch_size=batch_size)
    if only_embeds:
        return
    worker.wait()
    if worker.rank == 0:
        with folder_lock(folder):  # removals wait until the files of this generation are the only ones
            _index(folder, model, part, places, index, shard_size)
    worker.wait()


def _index(folder: Path, model: str, part: Part, places: Places, index: str, shard_size: int) -> None:
    """Trains an index on the embeddings, and adds them to it."""
    found = Embeddings(folder / "embeddings" / part.name, len(places), shard_size)
    factory = factory_string(index, len(found.rows), found.dim)  # now for the number of readable photos
    info = GalleryInfo(model, found.dim, shard_size, factory, 0, [])
    made = make_index(factory, found.dim)
    if blocks.in_blocks(made, found):
        work = blocks.work_folder(folder, factory, part.name)
        empty = blocks.trained(work, made, found, factory)
        blocks.merge(empty, blocks.write_blocks(work, empty, found), folder / "index-1.faiss")
        write_index(read_index(empty, mapped=False), folder / blocks.TRAINED)
    else:
        train_index(made, found.sample(training_count(made)), factory)
        lists_of(folder / "index-1.faiss").unlink(missing_ok=True)  # of a killed build with another `index`
        add_vectors(made, [found], folder / "index-1.faiss")
    commit(folder, info, part, *_readable(places, found))


def add_to_gallery(folder: Path, checkpoint: dict[str, Any], places: Places, *, batch_size: int) -> None:
    """Adds photos that a gallery does not have yet; its index is not trained again.

    Raises:
        UserError: there is no gallery of this model, the photos are all in it already, or the folder holds unfinished
            embeddings of other photos.
    """
    worker = Worker.join()
    info, part, new = _begin(folder, fingerprint(checkpoint), places)
    if len(places) > len(new):
        log.info("%d of %d photos are in the gallery already", len(places) - len(new), len(places))
    target = folder / "embeddings" / part.name
    _embed(target, checkpoint, new, worker, shard_size=info.shard_size, batch_size=batch_size)
    worker.wait()
    if worker.rank == 0:
        with folder_lock(folder):
            _extend(folder, info, part, new)
    worker.wait()


def _begin(folder: Path, model: str, places: Places) -> tuple[GalleryInfo, Part, Places]:
    """Claims the photos that are not in the gallery yet, under the lock that a removal holds: it waits for one to end,
    and the next one finds the claim. The processes of a torchrun do this in turn, with the same result.
    """
    GalleryInfo.read(folder, model)
    with folder_lock(folder):
        info = GalleryInfo.read(folder, model)
        drop_finished(folder, info)
        digest, new = _digest(places), _without_known(folder, info, places)
        if not len(new) or digest in {old.digest for old in info.parts}:
            raise UserError(f"these {len(places)} photos are in the gallery {folder} already")
        part = Part(str(len(info.parts)), len(new), _digest(new))
        _claim(folder, model, part, info.shard_size)
    return info, part, new


def _extend(folder: Path, info: GalleryInfo, part: Part, places: Places) -> None:
    """Adds the embeddings of a part to the index."""
    old, generation = Gallery(folder, info.model), len(info.parts)
    found = Embeddings(folder / "embeddings" / part.name, len(places), info.shard_size)
    before, target = (folder / f"index-{number}.faiss" for number in (generation, generation + 1))
    if lists_of(before).exists():
        work = blocks.work_folder(folder, info.factory, part.name)
        more = blocks.write_blocks(work, folder / blocks.TRAINED, found, info.photos)
        blocks.merge(folder / blocks.TRAINED, [before, *more], target)
    else:
        add_vectors(read_index(before, mapped=False), [found], target)
    positions, paths = _readable(places, found)
    commit(folder, info, part, np.concatenate([old.positions, positions]), old.paths + paths)


def _without_known(folder: Path, info: GalleryInfo, places: Places) -> Places:
    """The photos that are not in the gallery, by their absolute paths."""
    try:
        known = set(read_names(folder / f"paths-{len(info.parts)}.txt"))
    except UserError as error:
        raise UserError(f"the gallery {folder} is damaged ({error}): build it again") from error
    rows = [row for row, path in enumerate(places.paths) if str(path.resolve()) not in known]
    return Places([places.paths[row] for row in rows], places.positions[rows])


def embedding_dim(checkpoint: dict[str, Any]) -> int:
    """Length of an embedding: the channels of the backbone's last map."""
    model: Any = restore(checkpoint).model
    return int(model.backbone.channels[-1])


def _digest(places: Places) -> str:
    """A digest of the paths. Raises UserError if one has a line feed, which ends a path in a gallery's list."""
    for path in places.paths:
        if "\n" in str(path):
            raise UserError(f"{str(path)!r} has a line feed in its name, which a gallery cannot hold; rename it")
    return hashlib.sha256(b"\n".join(map(os.fsencode, places.paths))).hexdigest()[:16]


def _claim(folder: Path, model: str, part: Part, shard_size: int) -> None:
    """Records the model and photos of unfinished embeddings, so that only the same job resumes them."""
    claim, path = {"model": model, "shard_size": shard_size, **asdict(part)}, folder / "building.json"
    embeddings = folder / "embeddings" / part.name
    begun = any(embeddings.glob("*.npy"))  # checked before the claim, which this job's other processes write first
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            if begun:
                raise UserError(f"{embeddings} holds embeddings of an earlier gallery; delete it")
            blocks.drop(folder)
        elif _read_claim(path, embeddings) != claim:
            raise UserError(
                f"{folder} holds unfinished embeddings of another model or of other photos: finish that job, "
                f"or delete {path} and {embeddings}"
            )
        with atomic_write(path, "w") as file:  # several processes do this at once
            json.dump(claim, file)
    except OSError as error:
        raise UserError(f"the gallery {folder} cannot be written: {error}") from error


def _read_claim(path: Path, embeddings: Path) -> Any:
    """The content of building.json. Raises UserError if it is damaged."""
    try:
        return read_json(path, MAX_BYTES)
    except UserError as error:
        raise UserError(f"{path} is damaged; delete it and {embeddings}") from error


def drop_finished(folder: Path, info: GalleryInfo) -> None:
    """Removes the claim of a part that is in the gallery, files of other generations, which a killed process may have
    left, and embeddings of removed photos.
    """
    with suppress(OSError, UserError, AttributeError):  # a damaged claim stays
        claim = read_json(folder / "building.json", MAX_BYTES)
        if claim.get("digest") in {part.digest for part in info.parts}:
            (folder / "building.json").unlink()
    blocks.drop(folder)
    for pattern in ("index-*.faiss", "index-*.ivfdata", "positions-*.npy", "paths-*.txt", REWRITTEN):
        for path in folder.glob(pattern):
            if path.stem.rpartition("-")[2] != str(len(info.parts)):
                path.unlink(missing_ok=True)
            elif pattern == REWRITTEN:
                path.replace(path.with_name(f"{path.stem.partition('-')[0]}.npy"))
    for number, part in enumerate(info.parts):
        if not part.photos:
            shutil.rmtree(folder / "embeddings" / str(number), ignore_errors=True)


def _embed(
    folder: Path,
    checkpoint: dict[str, Any],
    places: Places,
    worker: Worker,
    *,
    batch_size: int,
    shard_size: int,
) -> None:
    module = restore(checkpoint)
    device = torch.device("cuda", worker.rank % torch.cuda.device_count()) if torch.cuda.is_available() else "cpu"
    write_embeddings(
        cast(GeoLocator, module.to(device).model),
        places.paths,
        folder,
        resolution=module.resolution,
        shard_size=shard_size,
        batch_size=batch_size,
        worker=worker,
    )


def add_vectors(index: Any, stored: Sequence[Embeddings], path: Path) -> None:
    """Adds embeddings to an index, and writes it."""
    for found in stored:
        for chunk in found.chunks():
            index.add(chunk)
    write_index(index, path)


def _readable(places: Places, found: Embeddings) -> tuple[Floats, list[str]]:
    """Positions and paths of the photos that have embeddings."""
    if bad := len(places) - len(found.rows):
        log.warning("%d of %d photos cannot be read and are left out", bad, len(places))
    return places.positions[found.rows], [str(places.paths[i].resolve()) for i in found.rows]


def commit(folder: Path, info: GalleryInfo, part: Part, positions: Floats, paths: list[str]) -> None:
    """Writes the files of the next generation, whose index exists already, then gallery.json, which makes it the
    current one, and removes the previous generation.
    """
    generation = len(info.parts) + 1
    save_array(folder / f"positions-{generation}.npy", positions)
    with atomic_write(folder / f"paths-{generation}.txt") as file:
        file.writelines(os.fsencode(path) + b"\n" for path in paths)
    info.parts.append(part)
    info.photos = len(paths)
    info.write(folder)
    drop_finished(folder, info)
    log.info("%s: %d photos", folder, info.photos)
