"""python -m tests.benchmarks.finetune --root <folder>: fine-tuning a classifier, ours and timm's, for the same minutes.

Alpha 0.75, 224 px, the same split, once with ImageNet weights where `--weights` names Keras' file, once from scratch.
Ours is `python -m tasks.run task=classification data.root=<folder> trainer.minutes=<minutes>` with a seed.
timm's is its MobileNetV1, loader, augmentation and optimizer with the defaults of its train.py (eager float32, SGD with
momentum 0.9 and weight decay 2e-5, cosine, color jitter 0.4, crops of at least 8 %, label smoothing 0.1) and batches of
32; its learning rate is 0.1 * batch / 256 from scratch, as train.py chooses, and a tenth of that with weights. Weights,
padding and normalization are the same on both sides. Printed is the top-1 of the last weights on val.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from timm.data import create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.models.efficientnet import _gen_mobilenet_v1
from timm.optim import create_optimizer_v2
from torch import nn
from torch.utils.data import Dataset
from torchvision.datasets.folder import default_loader

from backbones.weights import build_mobilenet_v1
from data.classification import ClassificationData, Sample
from tasks.engine.config import run_config
from tasks.engine.start import build_data
from tests.benchmarks.timing import as_it_comes, machine

ALPHA, SIDE, BATCH = 0.75, 224, 32
LOADER: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "device": torch.device("cpu"), "use_prefetcher": False}


class Files(Dataset[Any]):
    """The samples of a split as timm's loaders want them."""

    def __init__(self, samples: list[Sample]) -> None:
        self.samples, self.transform = samples, lambda image: image  # create_loader sets it

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label, _ = self.samples[index]
        assert isinstance(label, int)
        return self.transform(default_loader(str(path))), label


def peer(classes: int, weights: str | None) -> nn.Module:
    """timm's MobileNetV1 with the padding and epsilon of Keras' weights."""
    network: nn.Module = _gen_mobilenet_v1(
        "mobilenetv1_100", channel_multiplier=ALPHA, num_classes=classes, pad_type="same", bn_eps=1e-3
    )
    if weights:
        ours = build_mobilenet_v1(alpha=ALPHA, weights=weights).state_dict()
        theirs = [name for name in network.state_dict() if not name.startswith("classifier")]
        network.load_state_dict(dict(zip(theirs, ours.values(), strict=True)), strict=False)
    return network


def train_peer(data: ClassificationData, minutes: float, weights: str | None, seed: int) -> tuple[float, int]:
    """Top-1 on val and the number of steps."""
    torch.manual_seed(seed)
    as_it_comes()
    network = peer(len(data.labels), weights)
    workers = max(1, (torch.get_num_threads() - 1))
    files: Any = Files(data.samples("train"))  # any data set works, though the signature asks for timm's own
    train = create_loader(
        files,
        (3, SIDE, SIDE),
        BATCH,
        True,
        num_workers=workers,
        **LOADER,
    )
    optimizer = create_optimizer_v2(network, opt="sgd", lr=0.0, momentum=0.9, weight_decay=2e-5)
    peak = 0.1 * BATCH / 256 * (0.1 if weights else 1)
    loss, start, steps, done = LabelSmoothingCrossEntropy(0.1), time.monotonic(), 0, 0.0
    while done < 1:
        network.train()
        for images, labels in train:
            done = (time.monotonic() - start) / (60 * minutes)
            if done >= 1:
                break
            for group in optimizer.param_groups:  # cosine over the time, after 5 % of warm-up
                group["lr"] = peak * min(done / 0.05, (1 + math.cos(math.pi * done)) / 2)
            loss(network(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
    network.eval()
    files = Files(data.samples("val"))
    val = create_loader(files, (3, SIDE, SIDE), BATCH, False, num_workers=workers, **LOADER)
    with torch.no_grad():
        right = [(network(images).argmax(1) == labels) for images, labels in val]
    return torch.cat(right).float().mean().item(), steps


def train_ours(arguments: argparse.Namespace, weights: str | None, seed: int) -> tuple[Path, float]:
    """The run's folder and the top-1 of its last validation."""
    folder = Path("runs") / "classification" / f"finetune-{Path(arguments.root).name}-{bool(weights):d}-{seed}"
    settings = [
        f"data.root={arguments.root}",
        f"trainer.minutes={arguments.minutes}",
        f"seed={seed}",
        *arguments.settings,
    ]
    backbone = [f"backbone.alpha={ALPHA}", f"backbone.weights={weights}" if weights else "backbone.pretrained=false"]
    command = ["-m", "tasks.run", "task=classification", f"name={folder.name}", *settings, *backbone]
    subprocess.run([sys.executable, *command], check=True)
    return folder, json.loads((folder / "metrics.json").read_text())["history"][-1]["primary"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True, help="a folder that task=classification reads")
    parser.add_argument("--weights", help="Keras' ImageNet weights of alpha 0.75")
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("settings", nargs="*", help="of the data, such as data.group=sender_id")
    arguments = parser.parse_args()
    print(f"{arguments.root}, {arguments.minutes:g} minutes; {machine()}")
    for weights in [arguments.weights, None] if arguments.weights else [None]:
        for seed in range(arguments.seeds):
            run, ours = train_ours(arguments, weights, seed)
            data = build_data(run_config(run), generate_demo=False)
            assert isinstance(data, ClassificationData)
            theirs, steps = train_peer(data, arguments.minutes, weights, seed)
            start = "ImageNet weights" if weights else "from scratch"
            print(f"{start}, seed {seed}: ours {ours:.3f}, timm {theirs:.3f} ({steps} steps)", flush=True)


if __name__ == "__main__":
    main()
