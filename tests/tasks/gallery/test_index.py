"""Indexes: what is chosen, what it costs, how much it finds."""

from pathlib import Path

import numpy as np
import pytest

from backbones.errors import UserError
from tasks.gallery.index import (
    bytes_per_vector,
    factory_string,
    make_index,
    read_index,
    train_index,
    tune,
    write_index,
)

DIM = 32


def clustered(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(200, DIM))
    vectors = centres[rng.integers(0, 200, count)] + rng.normal(0, 0.5, (count, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_an_index_is_chosen_by_size() -> None:
    assert factory_string("auto", 2_000, 256) == "Flat"
    assert factory_string("auto", 1_000_000, 256) == "IVF4096,Flat"
    assert factory_string("auto", 10_000_000, 256) == "IVF16384,Flat"
    assert factory_string("auto", 100_000_000, 1024) == "IVF32768,SQ8"
    assert factory_string("ivf_pq", 100_000_000, 1024) == "OPQ64,IVF32768,PQ64"
    assert factory_string("hnsw", 10, 256) == "HNSW32,Flat"
    assert factory_string("PCA16,Flat", 10, 256) == "PCA16,Flat"
    assert factory_string("ivf_flat", 100, 256) == "IVF2,Flat"  # no more lists than so few photos can fill


@pytest.mark.parametrize(
    "wanted", ["flat", "ivf_flat", "ivf_sq8", "ivf_rabitq", "hnsw", "IVF16,SQfp16", "OPQ8,IVF16,PQ8x4"]
)
def test_every_kind_finds_and_costs_what_it_says(wanted: str, tmp_path: Path) -> None:
    vectors, queries = clustered(2000), clustered(100, seed=1)
    sizes = []
    for count in (1000, 2000):
        factory = factory_string(wanted, 2000, DIM)
        index = make_index(factory, DIM)
        train_index(index, vectors, factory)
        index.add(vectors[:count])
        write_index(index, tmp_path / "index.faiss")
        sizes.append((tmp_path / "index.faiss").stat().st_size)
    assert [path.name for path in tmp_path.iterdir()] == ["index.faiss"]
    # the file's growth is an independent measure of a vector's cost
    assert bytes_per_vector(index) == pytest.approx((sizes[1] - sizes[0]) / 1000, rel=0.1)

    found = read_index(tmp_path / "index.faiss")
    tune(found)
    best = np.argmax(queries @ vectors.T, axis=1)
    _, rows = found.search(queries, 10)
    recall_at_10 = (rows == best[:, None]).any(axis=1).mean()
    assert recall_at_10 >= (0.7 if "PQ" in wanted else 0.95)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists what is mapped")
def test_reading_maps_the_bulk(tmp_path: Path) -> None:
    index = make_index("IVF4,Flat", DIM)
    train_index(index, clustered(500), "IVF4,Flat")
    index.add(clustered(500))
    path = tmp_path / "index.faiss"
    write_index(index, path)
    found = read_index(path)
    assert str(path) in Path("/proc/self/maps").read_text()
    assert found.ntotal == 500


def test_what_cannot_be() -> None:
    with pytest.raises(
        UserError,
        match="index=tree is neither auto, flat, ivf_flat, ivf_sq8, ivf_rabitq, ivf_pq, hnsw nor FAISS's name",
    ):
        make_index("tree", DIM)
    index = make_index("IVF64,Flat", DIM)
    with pytest.raises(UserError, match="index=IVF64,Flat cannot be trained on 10 photos; index=flat needs no"):
        train_index(index, clustered(10), "IVF64,Flat")


@pytest.mark.parametrize("content", [b"", b"not an index at all, but long enough to be read as one" * 9])
def test_damaged_and_missing_files(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "index.faiss"
    with pytest.raises(UserError, match="is missing or damaged"):
        read_index(path)
    path.write_bytes(content)
    with pytest.raises(UserError, match="is missing or damaged") as error:
        read_index(path)
    assert "\n" not in str(error.value)


def test_truncated_file(tmp_path: Path) -> None:
    index = make_index("Flat", DIM)
    index.add(clustered(100))
    write_index(index, tmp_path / "index.faiss")
    whole = (tmp_path / "index.faiss").read_bytes()
    (tmp_path / "index.faiss").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is missing or damaged"):
        read_index(tmp_path / "index.faiss")
