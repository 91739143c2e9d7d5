"""How fast and how well a gallery is searched, by the kind of its index.

    python tests/benchmarks/geo_retrieval.py                    minutes, 1 million vectors of 256 dimensions
    python tests/benchmarks/geo_retrieval.py --count 100000     seconds

Wanted: at 1 million vectors of 256 dimensions, recall@1 of 0.95 or more against exact search at 10 times its
speed. All kinds search the same vectors in one process, one query at a time, as a server does, and in one
batch. The vectors are clustered in a space of few dimensions, as those of photos are.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tasks.geo.index import Vectors, bytes_per_vector, factory_string, make_index, train_index, training_count, tune

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--kinds", nargs="+", default=["flat", "ivf_flat", "hnsw", "ivf_pq"])
    options = parser.parse_args()
    vectors, queries = embeddings(options.count, options.dim), embeddings(options.queries, options.dim, seed=1)
    print(
        f"{options.count:,} vectors of {options.dim} dimensions, {faiss.omp_get_max_threads()} threads, "
        f"FAISS {faiss.__version__}"
    )
    print("| index | recall@1 | ms a query | in a batch | times exact | bytes a vector | build s | GB at 100 M |")
    print("|---|---|---|---|---|---|---|---|")
    exact = np.empty(0)
    base = 0.0
    for kind in options.kinds:
        factory = factory_string(kind, options.count, options.dim)
        index = make_index(factory, options.dim)
        start = time.perf_counter()
        sample = np.random.default_rng(0).permutation(options.count)[: training_count(index)]
        train_index(index, vectors[np.sort(sample)], factory)
        index.add(vectors)
        built = time.perf_counter() - start
        tune(index)
        index.search(queries[:2], 1)
        rows = np.array([index.search(query[None], 1)[1][0, 0] for query in queries])
        alone = seconds(lambda i=index: [i.search(query[None], 1) for query in queries]) / options.queries
        batch = seconds(lambda i=index: i.search(queries, 1)) / options.queries
        if kind == "flat":
            exact, base = rows, alone
        size = bytes_per_vector(index)
        print(
            f"| {factory} | {(rows == exact).mean():.3f} | {1000 * alone:.2f} | {1000 * batch:.2f} "
            f"| {base / alone:.1f} | {size} | {built:.0f} | {size * PROJECTED / 1e9:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
