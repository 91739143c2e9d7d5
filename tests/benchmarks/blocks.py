"""python -m tests.benchmarks.blocks: an index on disk, built in blocks with kills in between: memory, recall, speed.

Vectors are generated: unit vectors around random centres, about 100 each, like photos of the same places. Exact search
is FAISS's over all vectors in memory. Queries are vectors of the set with noise. Builds run in the cgroup `--group`:
under its memory limit, the kernel evicts mapped files or kills the build.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np

from tasks.gallery import blocks
from tasks.gallery.embed import Embeddings, save_array, shards
from tasks.gallery.index import factory_string, make_index, read_index, tune
from tests.benchmarks.timing import machine, seconds

DIM, SHARD, QUERIES = 256, 4096, 200


def generate(folder: Path, count: int) -> None:
    folder.mkdir()
    centres = np.random.default_rng(0).normal(size=(max(1, count // 100), DIM)).astype(np.float32)
    for part in shards(count, SHARD):
        rng = np.random.default_rng(1 + part.start)
        vectors = centres[rng.integers(len(centres), size=len(part))] + 0.5 * rng.normal(size=(len(part), DIM))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        save_array(folder / f"{part.start // SHARD:06d}.npy", vectors.astype(np.float16))


def build(root: Path, count: int, factory: str) -> None:
    found = Embeddings(root / "embeddings", count, SHARD)
    work = blocks.work_folder(root, factory, "0")
    empty = blocks.trained(work, make_index(factory, DIM), found, factory)
    blocks.merge(empty, blocks.write_blocks(work, empty, found), root / "index-1.faiss")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"resident peak with mapped files, which give way: {peak:.2f} GB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000_000)
    parser.add_argument("--factory", default="auto", help="an index, as in tasks.gallery")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--block-mb", type=int, default=blocks.BLOCK_BYTES >> 20)
    parser.add_argument("--group", type=Path, help="the folder of a control group, below /sys/fs/cgroup")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    factory = factory_string(given.factory, given.count, DIM)
    blocks.BLOCK_BYTES = given.block_mb << 20
    if given.build:
        if given.group:
            (given.group / "cgroup.procs").write_text(str(os.getpid()))
        build(given.build, given.count, factory)
        return
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        generate(root / "embeddings", given.count)
        own = [sys.executable, "-m", "tests.benchmarks.blocks", f"--build={root}"]
        own += [f"--count={given.count}", f"--factory={factory}", f"--block-mb={given.block_mb}"]
        own += [f"--group={given.group}"] if given.group else []
        start = time.monotonic()
        for killed in range(given.kills):
            with subprocess.Popen(own) as process:
                kill_after_a_block(process, root, killed)
        peak = 0
        with subprocess.Popen(own) as process:
            while process.poll() is None:
                peak = max(peak, own_memory(process.pid))
                time.sleep(0.05)
        assert process.returncode == 0
        print(f"peak of its own memory, after the last kill: {peak / 1e6:.2f} GB", flush=True)
        took = time.monotonic() - start
        measure(root, given.count)
        print(f"{machine()}; {given.count} vectors, {factory}, killed {given.kills} times, built in {took:.0f} s")


def own_memory(process: int) -> int:
    """Memory of a process in kB, without the files that it maps."""
    found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    return int(found[1]) if found else 0


def kill_after_a_block(process: subprocess.Popen[bytes], root: Path, done: int) -> None:
    """Kills a build when it has written one more block than before."""
    while process.poll() is None and len(list(root.glob("blocks-*/0*.faiss"))) <= done:
        time.sleep(0.05)
    process.kill()


def measure(root: Path, count: int) -> None:
    found = Embeddings(root / "embeddings", count, SHARD)
    index, exact = read_index(root / "index-1.faiss"), faiss.IndexFlatIP(DIM)
    tune(index)
    rng, sample = np.random.default_rng(0), found.sample(QUERIES)
    queries = sample + 0.02 * rng.normal(size=sample.shape).astype(np.float32)
    for chunk in found.chunks():
        exact.add(chunk)
    wanted, got = exact.search(queries, 1)[1], index.search(queries, 1)[1]
    took = seconds({"exact": lambda: exact.search(queries, 1), "disk": lambda: index.search(queries, 1)}, rounds=3)
    print(
        f"recall@1 {float((wanted == got).mean()):.3f}; {len(queries) / took['disk']:.0f} queries/s, mapped, "
        f"{took['exact'] / took['disk']:.1f} times exact search"
    )


if __name__ == "__main__":
    main()
