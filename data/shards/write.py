"""Writes the samples of a data set as WebDataset tar shards. Each appears only when it is complete, and existing ones
are kept, so that several processes and machines share the work and a killed one resumes.
"""

import hashlib
import io
import json
import logging
import random
import tarfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from PIL import Image

from backbones.errors import UserError
from backbones.files import atomic_write
from backbones.processors import usable_cores
from data.image_file import MAX_PIXELS, BadImage, limit_pixels, open_image, read_content
from data.tar import IMAGE_KINDS, SampleSource

log = logging.getLogger(__name__)


def write_shards(
    sources: Sequence[SampleSource],
    folder: Path,
    split: str,
    *,
    size: int,
    seed: int | None,
    part: int = 0,
    of: int = 1,
) -> int:
    """Writes `folder`/<split>-00000.tar, ... with `size` samples each, shuffled by `seed` unless it is None; only every
    `of`-th shard, from `part` on. Returns how many shards the split has.

    Raises:
        UserError: the folder holds shards of other images, or cannot be written.
    """
    sources = list(sources)
    if seed is not None:  # a folder's images are sorted by class, which a shuffle buffer would not mix
        random.Random(seed).shuffle(sources)
    _claim(sources, folder, split, size)
    count = -(-len(sources) // size)
    jobs = [
        (path, sources[number * size : (number + 1) * size], number * size)
        for number in range(part, count, of)
        if not (path := folder / f"{split}-{number:05d}.tar").exists()
    ]
    if not jobs:
        return count
    bad = 0
    limit = (Image.MAX_IMAGE_PIXELS or MAX_PIXELS,)
    with ProcessPoolExecutor(usable_cores(), get_context("spawn"), limit_pixels, limit) as pool:
        for left_out in pool.map(_write_shard, *zip(*jobs, strict=True)):
            bad += len(left_out)
            for name, reason in left_out:
                log.warning("left out %s: %s", name, reason)
    if bad:
        log.warning("%s: %d of %d images are left out", split, bad, sum(len(own) for _, own, _ in jobs))
    return count


def _claim(sources: Sequence[SampleSource], folder: Path, split: str, size: int) -> None:
    """Creates the folder with <split>.json, which says what its shards are of; they may be written already.

    Raises:
        UserError: as `write_shards`.
    """
    claim = {"images": len(sources), "size": size, "digest": digest(sources)}
    plan = folder / f"{split}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if plan.exists() and json.loads(plan.read_text()) != claim:
            raise UserError(f"{folder} holds shards of other images, or in another order: choose another output=")
        with atomic_write(plan, "w") as file:
            json.dump(claim, file)
    except ValueError as error:
        raise UserError(f"{plan} is damaged: choose another output=") from error
    except OSError as error:
        raise UserError(f"output={folder} cannot be written: {error.strerror}") from error


def digest(sources: Sequence[SampleSource]) -> str:
    """A digest of the names of the files, their order and annotations."""
    seen = hashlib.sha256()
    for source in sources:
        seen.update(json.dumps([str(source.path), source.annotations], sort_keys=True).encode(errors="surrogateescape"))
    return seen.hexdigest()[:16]


def _write_shard(path: Path, sources: Sequence[SampleSource], first: int) -> list[tuple[str, str]]:
    """Writes one shard; returns the files that are left out, not being readable images, and why: a link in a data set
    may lead to any file. The same sources give the same bytes.
    """
    left_out: list[tuple[str, str]] = []
    with atomic_write(path) as file, tarfile.open(fileobj=file, mode="w") as tar:
        for number, source in enumerate(sources, start=first):
            kind = source.path.suffix[1:].lower()
            try:
                if kind not in IMAGE_KINDS:
                    raise BadImage(source.path, f"its name ends in .{kind}")
                content = read_content(source.path)
                with open_image(source.path, content):
                    pass
            except BadImage as error:
                left_out.append(error.args)
                continue
            for ending, data in ((kind, content), ("json", json.dumps(source.annotations).encode())):
                info = tarfile.TarInfo(f"{number:09d}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return left_out
