"""python -m tests.benchmarks.input: our loading of training images against torchvision's, on one core.

JPEGs of 500 x 375 (made once, in the temporary folder, from the demo's drawn scenes with camera noise), collated to a
uint8 batch. Classification: a random resized crop to 224 and mirroring; torchvision's is ImageFolder with Pillow and
transforms.RandomResizedCrop, RandomHorizontalFlip, PILToTensor. Detection, to 320: SSD's random crop, mirroring and,
half of the time, a photometric change; torchvision's is Pillow and v2's RandomIoUCrop, Resize, RandomHorizontalFlip,
SanitizeBoundingBoxes, ColorJitter. Both sides draw from the same distributions.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import default_collate
from torchvision import transforms, tv_tensors
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from data.classification import ClassificationBatch, ImageSet, Sample, collate
from data.demo.scenes import render_scene
from data.detection import Augmentation, DetectionSet, Record
from data.detection import collate as collate_boxes
from tasks.engine.hardware import keep_freed_memory
from tests.benchmarks.timing import as_it_comes, machine, seconds

COUNT, SIZE, SIDE, CLASSES = 64, (500, 375), 224, 2
DETECTION_SIDE = 320


def make_images(root: Path, quality: int) -> None:
    """With grain like a photograph's: without it, JPEGs would be half as large and faster to decode."""
    if len(list(root.rglob("*.jpg"))) == COUNT:
        return
    for i in range(COUNT):
        rng = np.random.default_rng(i)
        pixels = np.asarray(render_scene(500, rng)[0].resize(SIZE), np.float32)
        grain = rng.normal(0, 4, (SIZE[1], SIZE[0], 1))
        path = root / f"class{i % CLASSES}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8)).save(path, quality=quality)


def detection(paths: list[Path]) -> dict[str, Any]:
    """The two sides, on images with four boxes each."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 0.6, (len(paths), 4, 2)) * SIZE
    boxes = np.concatenate([corners, corners + rng.uniform(20, 140, corners.shape)], axis=2)
    labels, no = np.arange(4), np.zeros(4, bool)
    records = [Record(path, i, boxes[i], labels, np.ones(4), no, no) for i, path in enumerate(paths)]
    ours = DetectionSet(records, DETECTION_SIDE, Augmentation(crop=True, flip=True, photometric=0.5))
    steps = v2.Compose([v2.RandomIoUCrop(), v2.Resize((DETECTION_SIDE,) * 2), v2.RandomHorizontalFlip()])
    steps = v2.Compose([steps, v2.SanitizeBoundingBoxes(), v2.RandomApply([v2.ColorJitter(0.3, 0.3, 0.3)], 0.5)])

    def load_ours() -> object:
        keep_freed_memory()
        return collate_boxes([ours[i] for i in range(COUNT)])

    def load_theirs() -> object:
        as_it_comes()
        samples = []
        for record in records:
            image = tv_tensors.Image(v2.functional.pil_to_tensor(Image.open(record.path).convert("RGB")))
            found = tv_tensors.BoundingBoxes(record.boxes, format="XYXY", canvas_size=SIZE[::-1], dtype=torch.float32)
            samples.append(steps({"image": image, "boxes": found, "labels": torch.from_numpy(record.labels)}))
        return torch.stack([sample["image"] for sample in samples])

    return {"ours": load_ours, "torchvision": load_theirs}


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

    kilobytes = sum(s.path.stat().st_size for s in samples) / COUNT / 1000
    print(f"{COUNT} JPEGs of {SIZE[0]} x {SIZE[1]}, {kilobytes:.0f} kB each, one core; {machine()}")
    classified = {"ours": load_ours, "torchvision": load_theirs}
    for title, sides in {"classification": classified, "detection": detection([s.path for s in samples])}.items():
        times = seconds(sides, arguments.rounds)
        rates = ", ".join(f"{name} {COUNT / value:.0f} images/s" for name, value in times.items())
        print(f"{title}: {rates}, ratio {times['torchvision'] / times['ours']:.2f}")


if __name__ == "__main__":
    main()
