"""python -m tests.benchmarks.train: our training step of a classifier against timm's, and where the time goes.

Alpha 1, 224 pixels, batch 32, 1000 classes. Ours runs as the suite runs it: channels_last, precision auto, uint8
input normalised in the step, fused optimizer, freed memory kept. timm's runs as its train.py does by default: eager
float32 NCHW of mobilenetv1_100, input already normalised, its own SGD. Then our images/s of the loader alone, of the
step alone and of both together with one loader process, on the images of tests.benchmarks.input.
"""

import argparse
import tempfile
import time
from pathlib import Path

import timm
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.utils.data import DataLoader

from backbones.mobilenet_v1 import MobileNetV1
from data.classification import ClassificationBatch, ImageSet, Sample, collate
from data.seeding import num_items
from tasks.classification.model import Classifier
from tasks.engine.hardware import keep_freed_memory, lightning_precision
from tests.benchmarks.input import make_images
from tests.benchmarks.timing import as_it_comes, machine, seconds

BATCH, SIDE, CLASSES = 32, 224, 1000


class Ours:
    def __init__(self, alpha: float) -> None:
        self.model = Classifier(MobileNetV1(alpha), CLASSES).to(memory_format=torch.channels_last).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, nesterov=True, fused=True)

    def step(self, images: Tensor, labels: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=lightning_precision("auto") == "bf16-mixed"):
            loss = self.model.loss(self.model(self.model.preprocess(images)), labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class Timm:
    def __init__(self) -> None:
        self.model = timm.create_model("mobilenetv1_100", num_classes=CLASSES).train()
        self.optimizer = create_optimizer_v2(self.model, opt="sgd", lr=0.01, momentum=0.9)
        self.loss = nn.CrossEntropyLoss()

    def step(self, images: Tensor, labels: Tensor) -> None:
        self.loss(self.model(images), labels).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def loader(count: int) -> DataLoader:
    root = Path(tempfile.gettempdir()) / "mobilenets-benchmark-500x375-q85"
    make_images(root, 85)
    paths = sorted(root.rglob("*.jpg"))
    samples = [Sample(paths[i % len(paths)], i % CLASSES) for i in range(count)]
    images = ImageSet(samples, SIDE, min_scale=0.35, flip=True)
    return DataLoader(images, BATCH, num_workers=1, persistent_workers=True, collate_fn=collate)


def rate(batches: DataLoader, ours: Ours | None) -> float:
    """Images/s of the second pass over the loader; the first starts its process."""
    start = 0.0
    for _ in range(2):
        start, batch = time.perf_counter(), None
        for batch in batches:
            assert isinstance(batch, ClassificationBatch)
            if ours:
                ours.step(batch.images, batch.labels)
    return num_items(batches.dataset) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=256)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    ours, theirs = Ours(1.0), Timm()
    images = torch.randint(0, 256, (BATCH, 3, SIDE, SIDE), dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last)
    floats, labels = images.contiguous().float() / 127.5 - 1, torch.randint(0, CLASSES, (BATCH,))

    def step_ours() -> None:
        keep_freed_memory()
        ours.step(images, labels)

    def step_theirs() -> None:
        as_it_comes()
        theirs.step(floats, labels)

    times = seconds({"ours": step_ours, "timm": step_theirs}, arguments.rounds)
    print(f"alpha 1, {SIDE} px, batch {BATCH}; {machine()}")
    for name, value in times.items():
        print(f"{name:14}{value * 1e3:8.0f} ms{BATCH / value:8.0f} images/s")
    print(f"{'ratio':14}{times['timm'] / times['ours']:8.2f}")
    keep_freed_memory()
    batches = loader(arguments.images)
    print(f"{'loader alone':14}{rate(batches, None):19.0f} images/s, one process")
    print(f"{'step alone':14}{BATCH / times['ours']:19.0f} images/s")
    print(f"{'end to end':14}{rate(batches, ours):19.0f} images/s")


if __name__ == "__main__":
    main()
