"""How fast and how well a gallery is searched, for each kind of index.

    python tests/benchmarks/geo_retrieval.py                    minutes, 1 million vectors of 256 dimensions
    python tests/benchmarks/geo_retrieval.py --count 100000     a minute

Target: at 1 million vectors of 256 dimensions, recall@1 of 0.95 or more against exact search at 10 times its
speed. All kinds search the same vectors in one process, one query at a time, as a server does, and in one
batch. The vectors are clustered in a space of few dimensions, as those of photos are.

The second table extrapolates to 100 million by the number of vector comparisons: n * lists for k-means (n being
proportional to lists), N * lists for adding, lists + probes * N / lists for a query; in a graph log N for each
vector added and each query. Memory is exact.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tasks.gallery.index import (
    KINDS,
    Vectors,
    bytes_per_vector,
    factory_string,
    make_index,
    train_index,
    training_count,
    tune,
)

PROJECTED = 100_000_000


def embeddings(count: int, dim: int, seed: int = 0) -> Vectors:
    """Unit vectors (count, dim): 20,000 clusters of power-law sizes within 24 dimensions, and some noise in all."""
    world, rng = np.random.default_rng(99), np.random.default_rng(seed)
    basis, centres = world.normal(size=(24, dim)), world.normal(size=(20_000, 24))
    share = 1 / np.arange(10, 20_010) ** 0.8
    found = np.empty((count, dim), np.float32)
    for start in range(0, count, 1 << 16):
        size = min(1 << 16, count - start)
        cluster = rng.choice(20_000, size, p=share / share.sum())
        vectors = (centres[cluster] + rng.normal(0, 0.35, (size, 24))) @ basis + rng.normal(0, 0.5, (size, dim))
        found[start : start + size] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@dataclass
class Row:
    """Measurements of an index: times in seconds, of a query in milliseconds."""

    factory: str
    recall: float
    alone: float
    batch: float
    size: int  # bytes a vector
    train: float
    add: float
    index: Any

    def projected(self, kind: str, count: int, dim: int) -> str:
        """The table's row for PROJECTED vectors."""
        more = PROJECTED / count
        query, train, add = more, 0.0, self.add * more
        factory = factory_string(kind, PROJECTED, dim)
        inner = faiss.extract_index_ivf(self.index) if "IVF" in factory else None
        if inner is not None:
            lists = int(factory.split("IVF")[1].split(",")[0])
            if kind == factory:  # FAISS's own name of an index says how many lists it has
                lists = int(factory_string("ivf_flat", PROJECTED, dim)[3:].split(",")[0])
                factory = factory.replace(f"IVF{inner.nlist}", f"IVF{lists}")
            compared = inner.nlist + inner.nprobe * count / inner.nlist
            query = (lists + inner.nprobe * PROJECTED / lists) / compared
            train, add = self.train * (lists / inner.nlist) ** 2, self.add * more * lists / inner.nlist
        elif "HNSW" in factory:
            query = math.log(PROJECTED) / math.log(count)
            add = self.add * more * query
        gigabytes, hours = self.size * PROJECTED / 1e9, (train + add) / 3600
        return f"| {factory} | {gigabytes:.0f} | {self.alone * query:.1f} | {hours:.1f} |"


def measure(kind: str, vectors: Vectors, queries: Vectors) -> tuple[Row, Vectors]:
    """Builds an index and searches it; also the best row for each query."""
    count, dim = vectors.shape
    factory = factory_string(kind, count, dim)
    index = make_index(factory, dim)
    sample = np.random.default_rng(0).permutation(count)[: training_count(index)]
    train = seconds(lambda: train_index(index, vectors[np.sort(sample)], factory))
    add = seconds(lambda: index.add(vectors))
    tune(index)
    index.search(queries[:2], 1)
    best = np.array([index.search(query[None], 1)[1][0, 0] for query in queries])
    alone = seconds(lambda: [index.search(query[None], 1) for query in queries]) / len(queries)
    batch = seconds(lambda: index.search(queries, 1)) / len(queries)
    return Row(factory, 0.0, 1000 * alone, 1000 * batch, bytes_per_vector(index), train, add, index), best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--kinds", nargs="+", default=KINDS)
    options = parser.parse_args()
    vectors, queries = embeddings(options.count, options.dim), embeddings(options.queries, options.dim, seed=1)
    print(
        f"{options.count:,} vectors of {options.dim} dimensions, {faiss.omp_get_max_threads()} threads, "
        f"FAISS {faiss.__version__}"
    )
    print("| index | recall@1 | ms a query | in a batch | times exact | bytes a vector | build s |")
    print("|---|---|---|---|---|---|---|")
    exact, base, projections = None, 0.0, []
    for kind in options.kinds:
        row, best = measure(kind, vectors, queries)
        if exact is None:
            exact, base = best, row.alone
        print(
            f"| {row.factory} | {(best == exact).mean():.3f} | {row.alone:.2f} | {row.batch:.2f} "
            f"| {base / row.alone:.1f} | {row.size} | {row.train + row.add:.0f} |",
            flush=True,
        )
        projections.append(row.projected(kind, options.count, options.dim))
        row.index = None
    print(f"| index of {PROJECTED:,} | GB | ms a query | build h |\n|---|---|---|---|", *projections, sep="\n")


if __name__ == "__main__":
    main()
