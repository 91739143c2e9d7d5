"""Nearest-neighbour search (FAISS): the choice of an index, its memory, training, reading and writing."""

import math
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from backbones.errors import UserError
from backbones.files import atomic_write, check_regular

Vectors = npt.NDArray[np.float32]

FLAT_MOST, IVF_MOST = 100_000, 20_000_000  # vectors; inverted lists may be on disk
KINDS = {  # FAISS's factory strings
    "flat": "Flat",
    "ivf_flat": "IVF{lists},Flat",
    "ivf_sq8": "IVF{lists},SQ8",
    "ivf_rabitq": "IVF{lists},RaBitQ4",  # four bits a dimension (Gao et al. 2024)
    "ivf_pq": "OPQ{pieces},IVF{lists},PQ{pieces}",
    "hnsw": "HNSW32,Flat",
}
TRAINING_PER_LIST = 50  # training vectors for each inverted list; FAISS wants at least 39


def factory_string(wanted: str, count: int, dim: int) -> str:
    """FAISS's factory string of an index: `auto` chooses by the number of vectors, unknown names stay as they are."""
    if wanted == "auto":
        wanted = "flat" if count <= FLAT_MOST else "ivf_flat" if count <= IVF_MOST else "ivf_sq8"
    # FAISS's guidelines: between 4 and 16 times the root of the count; a power of two
    lists = 2 ** max(0, min(round(math.log2(4 * math.sqrt(count))), int(math.log2(max(1, count / TRAINING_PER_LIST)))))
    pieces = next(m for m in (64, 32, 16, 8, 4, 2, 1) if m == 1 or (dim % m == 0 and m <= dim / 4))
    return KINDS[wanted].format(lists=lists, pieces=pieces) if wanted in KINDS else wanted


def make_index(factory: str, dim: int) -> Any:
    """An empty index of inner products.

    Raises:
        UserError: FAISS does not know it.
    """
    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise UserError(f"index={factory} is neither auto, {', '.join(KINDS)} nor FAISS's name of one") from error
    if isinstance(index, faiss.IndexPreTransform):
        chain: Any = index.chain
        for i in range(chain.size()):
            step = faiss.downcast_VectorTransform(chain.at(i))
            if isinstance(step, faiss.OPQMatrix):
                step.niter = 10  # instead of FAISS's 50; each iteration trains a product quantizer
    return index


def bytes_per_vector(index: Any) -> int:
    """Memory of a vector in bytes: its code, its id and its links."""
    inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index
    if isinstance(inner, faiss.IndexIVF):
        return int(inner.code_size) + 8
    if isinstance(inner, faiss.IndexHNSW):
        hnsw: Any = inner.hnsw
        links = hnsw.nb_neighbors(0) + 4  # of the lowest level, which has all vectors; few are on higher levels
        return int(inner.storage.sa_code_size()) + 4 * links
    return int(inner.sa_code_size())


def tune(index: Any) -> None:
    """Sets the search breadth for a recall of at least about 0.95: 64 inverted lists, or 128 candidates in a graph."""
    inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index
    if isinstance(inner, faiss.IndexIVF):
        inner.nprobe = min(64, inner.nlist)
    if isinstance(inner, faiss.IndexHNSW):
        inner.hnsw.efSearch = 128


def train_index(index: Any, sample: Vectors, factory: str) -> None:
    """Trains the index on a sample of the vectors (N, D).

    Raises:
        UserError: there are too few.
    """
    try:
        index.train(sample)
    except RuntimeError as error:
        raise UserError(
            f"index={factory} cannot be trained on {len(sample)} photos; index=flat needs no training"
        ) from error


def training_count(index: Any) -> int:
    """How many vectors to train on: few enough that they fit in memory."""
    inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index
    lists = inner.nlist if isinstance(inner, faiss.IndexIVF) else 0
    return max(100_000, 2 * TRAINING_PER_LIST * lists)


def write_index(index: Any, path: Path) -> None:
    with atomic_write(path) as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]  # SWIG makes it


def read_index(path: Path, mapped: bool = True) -> Any:
    """An index, if `mapped` memory-mapped as far as its kind allows; inverted lists in a separate file always are. Only
    the separate file with the index's own name is read, whatever path the index contains.

    Raises:
        UserError: the file is absent or damaged.
    """
    beside = lists_of(path).exists()
    flags = faiss.IO_FLAG_READ_ONLY | faiss.IO_FLAG_ONDISK_SAME_DIR
    try:
        for file in (path, lists_of(path)) if beside else (path,):
            check_regular(file, None)
        index = faiss.read_index(str(path), flags | (faiss.IO_FLAG_MMAP if mapped and not beside else 0))
        if not _lists_are_valid(index, path):
            raise RuntimeError("lists")
        return index
    except (OSError, RuntimeError, MemoryError) as error:
        raise UserError(f"the index {path} is missing or damaged: build the gallery again") from error


def lists_of(path: Path) -> Path:
    """The file beside an index with its inverted lists, unless they are in the index itself."""
    return path.with_suffix(".ivfdata")


def _lists_are_valid(index: Any, path: Path) -> bool:
    """Whether an index's mapped lists are in its own file, or the one beside it, and end within that file."""
    inner = faiss.try_extract_index_ivf(index)
    lists = faiss.downcast_InvertedLists(inner.invlists) if inner is not None and inner.invlists else None
    beside = lists_of(path)
    if not isinstance(lists, faiss.OnDiskInvertedLists):
        return not beside.exists()
    file = beside if beside.exists() else path
    if lists.filename != (str(beside) if file is beside else ""):
        return False
    places: Any = lists.lists
    length, each = file.stat().st_size, lists.code_size + 8
    found = (places.at(i) for i in range(places.size()))
    return all(one.size <= one.capacity and one.offset + one.capacity * each <= length for one in found if one.size)
