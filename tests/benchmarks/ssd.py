"""python -m tests.benchmarks.ssd: our SSD against torchvision's on the same backbone, maps and batch.

16 pictures of 300 x 300, 91 outputs. Ours runs as the suite runs it: channels_last, precision auto, uint8 input,
freed memory kept, and batch normalization folded to infer. torchvision's runs as it comes: eager float32 on a list
of pictures, around timm's MobileNetV1, which is the same network in plain layers, with the same extra maps and
1 x 1 predictors. torchvision's generator makes 2,278 anchors, ours 1,917.
"""

import argparse
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import perf_counter

import timm
import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD as TorchvisionSSD
from torchvision.models.detection.ssd import SSDScoringHead

from backbones.mobilenet_v1 import MobileNetV1, fold_norms
from tasks.detection.necks import EXTRA_DEPTHS
from tasks.detection.ssd import SSD
from tasks.hardware import keep_freed_memory, precision
from tests.benchmarks.timing import as_it_comes, machine, seconds

BATCH, SIDE, CLASSES, OBJECTS = 16, 300, 90, 8
CANDIDATES = 200  # (box, class) pairs an image above the score threshold: a trained detector's load


class Maps(nn.Module):
    """The six maps of ssd_mobilenet_v1 in torchvision's form, of plain layers."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        name = {1.0: "mobilenetv1_100", 1.25: "mobilenetv1_125"}[alpha]
        self.backbone = timm.create_model(name, features_only=True, out_indices=(3, 4))
        channels = self.backbone.feature_info.channels()
        self.extras = nn.ModuleList()
        for depth in EXTRA_DEPTHS:
            half, full = (int(d * alpha) for d in (depth // 2, depth))
            layers = [
                nn.Conv2d(channels[-1], half, 1, bias=False),
                nn.BatchNorm2d(half),
                nn.ReLU6(inplace=True),
            ]
            layers += [
                nn.Conv2d(half, full, 3, 2, 1, bias=False),
                nn.BatchNorm2d(full),
                nn.ReLU6(inplace=True),
            ]
            self.extras.append(nn.Sequential(*layers))
            channels.append(full)
        self.channels = channels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        maps = self.backbone(images)
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return OrderedDict((str(i), x) for i, x in enumerate(maps))


class Head(nn.Module):
    """torchvision's SSDHead with 1 x 1 predictors."""

    def __init__(self, channels: list[int], anchors: list[int]) -> None:
        super().__init__()
        pairs = list(zip(channels, anchors, strict=True))
        classes = CLASSES + 1
        self.classes = SSDScoringHead(nn.ModuleList(nn.Conv2d(c, a * classes, 1) for c, a in pairs), classes)
        self.boxes = SSDScoringHead(nn.ModuleList(nn.Conv2d(c, a * 4, 1) for c, a in pairs), 4)

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        return {"bbox_regression": self.boxes(x), "cls_logits": self.classes(x)}


def make_ours(alpha: float) -> SSD:
    return SSD(MobileNetV1(alpha, strides=SSD.strides), CLASSES, alpha=alpha)


def make_torchvision(alpha: float) -> TorchvisionSSD:
    maps = Maps(alpha)
    generator = DefaultBoxGenerator([[2], [2, 3], [2, 3], [2, 3], [2, 3], [2, 3]])
    head = Head(maps.channels, generator.num_anchors_per_location())
    return TorchvisionSSD(maps, generator, (SIDE, SIDE), CLASSES + 1, head=head)


def bias_for_load(passing: Callable[[float], int], images: int) -> float:
    """The class bias at which CANDIDATES pairs an image pass, by bisection."""
    low, high = -20.0, 20.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if passing(middle) > CANDIDATES * images else (middle, high)
    return low


def autocast() -> AbstractContextManager:
    return torch.autocast("cpu", torch.bfloat16, enabled=precision("auto") == "bf16-mixed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--alpha", type=float, default=1.0, choices=(1.0, 1.25))
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    ours = make_ours(arguments.alpha).to(memory_format=torch.channels_last)
    theirs = make_torchvision(arguments.alpha)

    images = torch.randint(0, 256, (BATCH, 3, SIDE, SIDE), dtype=torch.uint8)
    corner = torch.rand(BATCH, OBJECTS, 2) * 200
    boxes = torch.cat([corner, corner + 20 + torch.rand(BATCH, OBJECTS, 2) * 70], dim=-1)
    labels = torch.randint(0, CLASSES, (BATCH, OBJECTS))
    floats = [image.float() / 255 for image in images]
    targets = [{"boxes": b, "labels": label + 1} for b, label in zip(boxes, labels, strict=True)]
    optimizers = torch.optim.AdamW(ours.parameters(), fused=True), torch.optim.AdamW(theirs.parameters())
    parts: dict[str, list[float]] = {}

    def train_ours() -> None:
        keep_freed_memory()
        marks = [perf_counter()]
        with autocast():
            outputs = ours(ours.preprocess(images))
            marks.append(perf_counter())
            loss = torch.stack(list(ours.loss(outputs, boxes, labels).values())).sum()
        marks.append(perf_counter())
        loss.backward()
        marks.append(perf_counter())
        optimizers[0].step()
        optimizers[0].zero_grad()
        marks.append(perf_counter())
        for name, start, end in zip(("forward", "loss", "backward", "optimizer"), marks, marks[1:], strict=False):
            parts.setdefault(name, []).append(end - start)

    def train_theirs() -> None:
        as_it_comes()
        torch.stack(list(theirs(floats, targets).values())).sum().backward()
        optimizers[1].step()
        optimizers[1].zero_grad()

    ours.train()
    theirs.train()
    training = seconds({"ours": train_ours, "torchvision": train_theirs}, arguments.rounds)

    ours.eval()
    theirs.eval()
    set_load(ours, theirs, images, floats)
    fold_norms(ours)  # as tasks.predict does

    @torch.inference_mode()
    def infer_ours() -> None:
        keep_freed_memory()
        with autocast():
            ours.postprocess(ours(ours.preprocess(images)))

    @torch.inference_mode()
    def infer_theirs() -> None:
        as_it_comes()
        theirs(floats)

    inference = seconds({"ours": infer_ours, "torchvision": infer_theirs}, arguments.rounds)

    print(f"SSD {SIDE}, alpha {arguments.alpha:g}, batch {BATCH}; {machine()}")
    print(f"{'':12}{'ours ms':>10}{'torchvision ms':>16}{'ratio':>8}")
    for name, times in (("training", training), ("inference", inference)):
        ratio = times["torchvision"] / times["ours"]
        print(f"{name:12}{times['ours'] * 1e3:10.0f}{times['torchvision'] * 1e3:16.0f}{ratio:8.2f}")
    total = sum(sum(values) for values in parts.values())
    print("our step:", ", ".join(f"{name} {100 * sum(v) / total:.0f} %" for name, v in parts.items()))


@torch.no_grad()
def set_load(ours: SSD, theirs: TorchvisionSSD, images: Tensor, floats: list[Tensor]) -> None:
    """Gives both as many candidates; untrained scores would all lie on one side of the threshold."""
    logits = ours(ours.preprocess(images))[1][..., 1:]
    bias = bias_for_load(lambda b: int(((logits + b).sigmoid() > 0.01).sum()), BATCH)
    for head in ours.class_head.predictors:
        head.bias += bias

    batch, _ = theirs.transform(floats)
    scores = theirs.head(list(theirs.backbone(batch.tensors).values()))["cls_logits"]
    background = torch.zeros(CLASSES + 1)
    background[0] = 1  # less background is more of everything else
    bias = bias_for_load(lambda b: int(((scores - b * background).softmax(-1)[..., 1:] > 0.01).sum()), BATCH)
    for head in theirs.head.classes.module_list:
        head.bias[:: CLASSES + 1] -= bias


if __name__ == "__main__":
    main()
