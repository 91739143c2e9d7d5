"""Inverted-file (IVF) indexes larger than memory: vectors are added block by block, each to its own file, and the
blocks' lists are merged into one on disk. Existing blocks are kept, so that a killed build resumes.
"""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from backbones.errors import UserError
from backbones.files import sync
from data.geo.s2 import Bools
from tasks.gallery.embed import Embeddings
from tasks.gallery.index import lists_of, read_index, train_index, training_count, write_index

BLOCK_BYTES = 1 << 29  # of float32 vectors; a build takes two to three times that
TRAINED = "trained.faiss"  # the index without vectors


def blocks_of(found: Embeddings) -> list[range]:
    """The shards of embeddings in each block."""
    most = max(1, BLOCK_BYTES // (4 * found.dim))
    blocks, first, count = [], 0, 0
    for number, good in enumerate(found.good):
        if count and count + len(good) > most:
            blocks.append(range(first, number))
            first, count = number, 0
        count += len(good)
    return [*blocks, range(first, len(found.good))]


def in_blocks(index: Any, found: Embeddings) -> bool:
    """Whether an index can be on disk, and gets more vectors than one block."""
    return faiss.try_extract_index_ivf(index) is not None and len(blocks_of(found)) > 1


def work_folder(folder: Path, factory: str, name: str) -> Path:
    """The folder of a part's blocks until they are merged."""
    return folder / f"blocks-{name}-{hashlib.sha256(factory.encode()).hexdigest()[:8]}"


def trained(folder: Path, index: Any, found: Embeddings, factory: str) -> Path:
    """The file of the index, trained once on a sample of the embeddings."""
    path = folder / TRAINED
    folder.mkdir(exist_ok=True)
    if not path.exists():
        train_index(index, found.sample(training_count(index)), factory)
        write_index(index, path)
    return path


def write_blocks(folder: Path, empty: Path, found: Embeddings, first: int = 0) -> list[Path]:
    """Writes the missing blocks, each as an index. Vector ids count from `first` across all blocks: ids that FAISS 1.15
    assigns while merging blocks of unequal lengths are wrong.
    """
    paths = []
    folder.mkdir(exist_ok=True)
    for block, shards in enumerate(blocks_of(found)):
        path = folder / f"{block:05d}.faiss"
        paths.append(path)
        index = None if path.exists() else read_index(empty, mapped=False)
        for number in shards:
            rows = found.good[number]
            numbers = np.arange(first, first := first + int(rows.sum()))
            if index is not None:
                index.add_with_ids(found.shard(number, rows), numbers)
        if index is not None:
            write_index(index, path)
    return paths


def merge(empty: Path, blocks: Sequence[Path], target: Path, kept: Bools | None = None) -> None:
    """Writes the index `target`, and its lists beside it, with the vectors and ids of the blocks; if `kept` (N,) is
    given, with those vectors only, and new ids.

    FAISS writes the path of the lists into the index; `read_index` accepts only lists in the index's own folder.

    Raises:
        UserError: an index is damaged, or has other vectors than `kept`.
    """
    index = read_index(empty, mapped=False)
    inner = faiss.extract_index_ivf(index)
    parts = [read_index(path) for path in blocks]
    pointers = faiss.InvertedListsPtrVector()  # type: ignore[attr-defined]
    for part in parts:
        pointers.push_back(faiss.extract_index_ivf(part).invlists)
    data = lists_of(target)
    data.unlink(missing_ok=True)
    lists = faiss.OnDiskInvertedLists(inner.nlist, inner.code_size, str(data))
    index.ntotal = inner.ntotal = lists.merge_from_multiple(pointers.data(), pointers.size(), False)
    inner.replace_invlists(lists, True)
    lists.this.disown()  # type: ignore[attr-defined]
    if kept is not None:
        index.ntotal = inner.ntotal = keep(lists, kept)
        if index.ntotal != kept.sum():
            raise UserError(f"the gallery {target.parent} is damaged: its index has other photos; build it again")
    sync(data)
    write_index(index, target)


def keep(lists: Any, kept: Bools) -> int:
    """Overwrites the vectors of inverted lists that are not `kept` (N,), and gives the others new ids; returns the
    number of these, or fewer if an id is out of range. FAISS's remove_ids keeps the ids, and leaves vectors in the
    file.
    """
    number, count = np.cumsum(kept) - 1, 0
    for which in range(lists.nlist):
        if size := lists.list_size(which):
            ids = faiss.rev_swig_ptr(lists.get_ids(which), size)
            codes = faiss.rev_swig_ptr(lists.get_codes(which), size * lists.code_size)
            if not 0 <= ids.min() <= ids.max() < len(kept):
                break
            codes, own = codes.reshape(size, -1), kept[ids]
            count += (left := int(own.sum()))
            ids[:left], codes[:left], codes[left:] = number[ids[own]], codes[own], 0
            lists.resize(which, left)
    return count


def drop(folder: Path) -> None:
    """Removes the folders of blocks."""
    for place in folder.glob("blocks-*"):
        shutil.rmtree(place, ignore_errors=True)
