"""python -m tests.benchmarks.input: our loading of training images against torchvision's, on one core.

JPEGs of 500 x 375 (made once, in the temporary folder, of the demo's drawn scenes with camera noise), a random
resized crop to 224 and mirroring, collated to a uint8 batch. torchvision: ImageFolder with Pillow and
transforms.RandomResizedCrop, RandomHorizontalFlip, PILToTensor. Both draw crops of the same distribution.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import default_collate
from torchvision import transforms
from torchvision.datasets import ImageFolder

from data.classification import ClassificationBatch, ImageSet, Sample, collate
from data.demo.scenes import render_scene
from tasks.engine.hardware import keep_freed_memory
from tests.benchmarks.timing import as_it_comes, machine, seconds

COUNT, SIZE, SIDE, CLASSES = 64, (500, 375), 224, 2


def make_images(root: Path, quality: int) -> None:
    """Grained as a photograph is: without it a JPEG would be half as long, and quicker to decode."""
    if len(list(root.rglob("*.jpg"))) == COUNT:
        return
    for i in range(COUNT):
        rng = np.random.default_rng(i)
        pixels = np.asarray(render_scene(500, rng)[0].resize(SIZE), np.float32)
        grain = rng.normal(0, 4, (SIZE[1], SIZE[0], 1))
        path = root / f"class{i % CLASSES}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8)).save(path, quality=quality)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quality", type=int, default=85)
    parser.add_argument("--min-scale", type=float, default=0.35, help="smallest crop; the suite's default is 0.35")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    root = Path(tempfile.gettempdir()) / f"mobilenets-benchmark-{SIZE[0]}x{SIZE[1]}-q{arguments.quality}"
    make_images(root, arguments.quality)

    augmentation = (
        transforms.RandomResizedCrop(SIDE, scale=(arguments.min_scale, 1)),
        transforms.RandomHorizontalFlip(),
        transforms.PILToTensor(),
    )
    theirs = ImageFolder(str(root), transforms.Compose(augmentation))
    samples = [Sample(Path(path), label) for path, label in theirs.samples]
    ours = ImageSet(samples, SIDE, min_scale=arguments.min_scale, flip=True)

    def load_ours() -> ClassificationBatch:
        keep_freed_memory()
        return collate([ours[i] for i in range(COUNT)])

    def load_theirs() -> object:
        as_it_comes()
        return default_collate([theirs[i] for i in range(COUNT)])

    times = seconds({"ours": load_ours, "torchvision": load_theirs}, arguments.rounds)
    kilobytes = sum(s.path.stat().st_size for s in samples) / COUNT / 1000
    print(f"{COUNT} JPEGs of {SIZE[0]} x {SIZE[1]}, {kilobytes:.0f} kB each, one core; {machine()}")
    for name, value in times.items():
        print(f"{name:12}{COUNT / value:8.0f} images/s")
    print(f"ratio       {times['torchvision'] / times['ours']:8.2f}")


if __name__ == "__main__":
    main()
