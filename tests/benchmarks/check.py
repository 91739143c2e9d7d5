"""python -m tests.benchmarks.check: seconds and memory of tasks.check on a generated set of 100,000 images.

COCO's layout with JPEGs of 500 x 375 (made once, in the temporary folder, by all cores: grainy patches of
colour, 20 files of each picture in one split), a fifth in val, five boxes of 20 classes in each. Planted: a copy of a
training image in val, a truncated file, a box outside of its image; the command must name these three and nothing else.
"""

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from tests.benchmarks.timing import machine
from tests.conftest import ROOT

SIZE, CLASSES, BOXES = (500, 375), 20, 5
COPIES = 20


def draw(first: int, folder: Path) -> None:
    """Writes a picture COPIES times; a comment makes each a different file."""
    rng = np.random.default_rng(first)
    cells = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
    grain = rng.normal(0, 6, (SIZE[1], SIZE[0], 1)).astype(np.float32)
    pixels = np.clip(np.asarray(cells, np.float32) + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
    for i in range(first, first + COPIES):
        comment = b"\xff\xfe" + (8).to_bytes(2, "big") + f"{i:06}".encode()
        (folder / f"{i:06}.jpg").write_bytes(b"\xff\xd8" + comment + buffer.getvalue()[2:])


def make(root: Path, count: int) -> None:
    """Draws the set, unless it is there."""
    if (root / "annotations" / "instances_val2017.json").exists():
        return
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, numbers in (("train", range(count // 5, count)), ("val", range(count // 5))):
        folder = root / f"{split}2017"
        folder.mkdir(exist_ok=True)
        with ProcessPoolExecutor() as pool:
            list(pool.map(partial(draw, folder=folder), numbers[::COPIES], chunksize=8))
        rng = np.random.default_rng(count)
        images = [{"id": i, "file_name": f"{i:06}.jpg", "width": SIZE[0], "height": SIZE[1]} for i in numbers]
        sides = rng.integers(20, 180, (len(numbers), BOXES, 2))
        corners = rng.integers(0, np.array(SIZE) - 180, (len(numbers), BOXES, 2))
        rows = np.concatenate([corners, sides], axis=2).tolist()
        labels = rng.integers(0, CLASSES, (len(numbers), BOXES)).tolist()
        annotations = [
            {"image_id": i, "category_id": label, "bbox": box, "area": box[2] * box[3]}
            for i, boxes, own in zip(numbers, rows, labels, strict=True)
            for box, label in zip(boxes, own, strict=True)
        ]
        if split == "val":
            annotations[0]["bbox"] = [600, 0, 30, 30]
        categories = [{"id": i, "name": f"class {i}"} for i in range(CLASSES)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    (root / "val2017" / "000001.jpg").write_bytes((root / "train2017" / f"{count - 1:06}.jpg").read_bytes())
    torn = root / "val2017" / "000002.jpg"
    torn.write_bytes(torn.read_bytes()[:-20])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    count = parser.parse_args().count
    root = Path(tempfile.gettempdir()) / f"mobilenets-benchmark-check-{count}"
    make(root, count)
    start = time.monotonic()
    command = [sys.executable, "-m", "tasks.check", f"data.root={root}", f"output={root / 'check.html'}"]
    subprocess.run(command, cwd=ROOT, check=True)
    seconds = time.monotonic() - start
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    kilobytes = np.mean([f.stat().st_size for f in list((root / "val2017").iterdir())[:100]]) / 1000
    print(f"{count:,} JPEGs of {SIZE[0]} x {SIZE[1]}, {kilobytes:.0f} kB each, {os.cpu_count()} cores; {machine()}")
    print(f"{seconds:.1f} s, {usage.ru_utime + usage.ru_stime:.1f} s of processors, {usage.ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
