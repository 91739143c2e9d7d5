"""Indexes on disk, built block by block: like those in memory, also after kills, and wherever their folder is."""

import json
from pathlib import Path

import numpy as np
import pytest

from backbones.errors import UserError
from tasks.engine.checkpoint import find_checkpoint, load_checkpoint
from tasks.gallery import blocks
from tasks.gallery.embed import Embeddings, fingerprint, save_array
from tasks.gallery.gallery import Gallery
from tasks.gallery.index import lists_of, make_index, read_index, tune
from tests.tasks.gallery.conftest import ask, contents

COUNT, DIM, SHARD = 600, 16, 50


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Embeddings:
    """Shards of embeddings, a few unreadable, of which two make a block."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4 * DIM * 2 * SHARD)
    vectors = np.random.default_rng(0).normal(size=(COUNT, DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[::97] = np.nan
    (tmp_path / "embeddings").mkdir()
    for start in range(0, COUNT, SHARD):
        save_array(tmp_path / "embeddings" / f"{start // SHARD:06d}.npy", vectors[start : start + SHARD].astype("f2"))
    return Embeddings(tmp_path / "embeddings", COUNT, SHARD)


def answers(index: object, found: Embeddings) -> tuple[np.ndarray, np.ndarray]:
    tune(index)
    return index.search(next(found.chunks())[:20], 5)  # type: ignore[attr-defined]  # SWIG makes it


@pytest.mark.parametrize("factory", ["IVF4,Flat", "IVF4,SQ8", "OPQ4,IVF4,PQ4x4"])
def test_an_index_in_blocks_answers_as_one_in_memory(factory: str, found: Embeddings, tmp_path: Path) -> None:
    index = make_index(factory, DIM)
    assert blocks.in_blocks(index, found)
    assert not blocks.in_blocks(make_index("Flat", DIM), found)
    work = blocks.work_folder(tmp_path, factory, "0")
    empty = blocks.trained(work, index, found, factory)
    paths = blocks.write_blocks(work, empty, found)
    assert len(paths) == 6
    paths[2].unlink()  # a killed build continues with the missing ones
    before = [path.stat().st_mtime_ns for path in paths if path.exists()]
    assert blocks.write_blocks(work, blocks.trained(work, index, found, factory), found) == paths
    assert [path.stat().st_mtime_ns for path in paths if path != paths[2]] == before
    blocks.merge(empty, paths, tmp_path / "index-1.faiss")
    memory = read_index(empty, mapped=False)
    for chunk in found.chunks():
        memory.add(chunk)
    wanted = answers(memory, found)
    (tmp_path / "elsewhere").mkdir()
    for path in (tmp_path / "index-1.faiss", lists_of(tmp_path / "index-1.faiss")):
        path.rename(tmp_path / "elsewhere" / path.name)
    index = read_index(tmp_path / "elsewhere" / "index-1.faiss")
    for one, other in zip(answers(index, found), wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    assert index.ntotal == len(found.rows)


def test_lists_elsewhere_are_not_read(found: Embeddings, tmp_path: Path) -> None:
    """An index file can name any file, and any place in it, for its lists."""
    work = tmp_path / "work"
    empty = blocks.trained(work, make_index("IVF4,Flat", DIM), found, "IVF4,Flat")
    blocks.merge(empty, blocks.write_blocks(work, empty, found), tmp_path / "a.faiss")
    content = lists_of(tmp_path / "a.faiss").read_bytes()
    for mapped in (True, False):
        lists_of(tmp_path / "a.faiss").unlink(missing_ok=True)
        with pytest.raises(UserError, match="missing or damaged"):
            read_index(tmp_path / "a.faiss", mapped)
        lists_of(tmp_path / "a.faiss").write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match="missing or damaged"):
            read_index(tmp_path / "a.faiss", mapped)
    for name in ("a", "b"):
        lists_of(tmp_path / f"{name}.faiss").write_bytes(content)
    (tmp_path / "b.faiss").write_bytes((tmp_path / "a.faiss").read_bytes())  # which names the lists of the other
    read_index(tmp_path / "a.faiss")
    with pytest.raises(UserError, match="missing or damaged"):
        read_index(tmp_path / "b.faiss")


def test_a_gallery_in_blocks_that_grows(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built in parts, killed between them, added to, and asked."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4 * 256 * 20)
    folder, earth = tmp_path / "gallery", run.parents[2] / "earth"
    job = {"mode": "build", "folder": folder, "index": "'IVF2,Flat'", "shard_size": 7, "batch_size": 3}
    ask(run, **job, part=0, of=2)
    with pytest.raises(UserError, match="holds no gallery"):
        ask(run, mode="evaluate", folder=folder, output=tmp_path)
    assert len(list((folder / "embeddings" / "0").iterdir())) == 5
    before = {path: path.stat().st_mtime_ns for path in (folder / "embeddings" / "0").iterdir()}
    ask(run, **job, part=0, of=2)
    ask(run, **job, part=1, of=2)
    assert not (folder / "gallery.json").exists()
    ask(run, **job)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    ask(run, mode="add", folder=folder, source=earth / "val.csv")
    assert sorted(path.name for path in folder.iterdir()) == [
        *("embeddings", "gallery.json", "index-2.faiss", "index-2.ivfdata", "paths-2.txt", "positions-2.npy"),
        "trained.faiss",
    ]
    assert json.loads((folder / "gallery.json").read_text())["photos"] == 72
    ask(run, mode="query", folder=folder, input=earth / "val" / "000001.jpg", output=tmp_path / "out", k=3)
    answer = json.loads((tmp_path / "out" / "answers.jsonl").read_text())
    assert answer["neighbours"][0]["path"] == str((earth / "val" / "000001.jpg").resolve())
    for part, of in ((2, 2), (0, "null"), ("null", 2)):
        with pytest.raises(UserError, match="parts count from 0"):
            ask(run, **job | {"folder": tmp_path / "other"}, part=part, of=of)


def test_parts_make_what_one_process_makes(run: Path, built: Path, tmp_path: Path) -> None:
    for part in (1, 0):
        ask(run, mode="build", folder=tmp_path, shard_size=7, batch_size=3, part=part, of=2)
    ask(run, mode="build", folder=tmp_path, shard_size=7, batch_size=3)
    assert contents(tmp_path).keys() == contents(built).keys()
    assert (tmp_path / "gallery.json").read_bytes() == (built / "gallery.json").read_bytes()


def test_lists_of_a_killed_build_do_not_damage_another_index(run: Path, tmp_path: Path) -> None:
    """It had merged its blocks, and the next one asks for an index without lists beside it."""
    lists_of(tmp_path / "index-1.faiss").write_bytes(b"lists")
    ask(run, mode="build", folder=tmp_path, index="flat")
    assert len(Gallery(tmp_path, fingerprint(load_checkpoint(find_checkpoint(run))))) == 60
