"""python -m tests.benchmarks.detection: our detectors against torchvision's on the same backbone, maps and batch.

Alpha 1, 91 outputs. Ours run as the suite runs them: channels_last, precision auto, uint8 input, freed memory kept, and
batch normalization folded for inference. torchvision's run unchanged: eager float32 on a list of images, around
timm's MobileNetV1, which is the same network in plain layers, with the same further layers. torchvision's SSD makes
2,278 anchors where ours makes 1,917; its Faster R-CNN has an RPN head of 512 channels, like ours. Score thresholds are
set so that on both sides as many (box, class) pairs enter postprocessing as with a trained detector.
"""

import argparse
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from time import perf_counter
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.ssd import SSD as TorchvisionSSD
from torchvision.models.detection.ssd import SSDScoringHead
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops import MultiScaleRoIAlign

from backbones.mobilenet_v1 import MobileNetV1, fold_norms
from tasks.detection.detector import Detector
from tasks.detection.faster_rcnn import ANCHOR_SIDES, CROP, RATIOS, FasterRCNN
from tasks.detection.necks import EXTRA_DEPTHS
from tasks.detection.pan import PAN
from tasks.detection.ssd import SSD, SSDFPN, SSDLite
from tasks.engine.hardware import keep_freed_memory, lightning_precision
from tests.benchmarks.timing import as_it_comes, machine, seconds

CLASSES, OBJECTS = 90, 8
CANDIDATES = 200  # (box, class) pairs an image above the score threshold: a trained detector's load


def plain(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True)]


class Maps(nn.Module):
    """The six feature maps of ssd_mobilenet_v1 and SSDLite as a torchvision backbone of plain layers."""

    def __init__(self, depthwise: bool) -> None:
        super().__init__()
        backbone: Any = timm.create_model("mobilenetv1_100", features_only=True, out_indices=(3, 4))
        self.backbone, channels = backbone, backbone.feature_info.channels()
        self.extras = nn.ModuleList()
        for depth in EXTRA_DEPTHS:
            half = depth // 2
            layers = plain(channels[-1], half)
            if depthwise:
                layers += plain(half, half, 3, 2, groups=half) + plain(half, depth)
            else:
                layers += plain(half, depth, 3, 2)
            self.extras.append(nn.Sequential(*layers))
            channels.append(depth)
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


def torchvision_ssd(side: int, depthwise: bool) -> TorchvisionSSD:
    maps = Maps(depthwise)
    generator = DefaultBoxGenerator([[2], [2, 3], [2, 3], [2, 3], [2, 3], [2, 3]])
    anchors = generator.num_anchors_per_location()
    lite = partial(SSDLiteHead, num_classes=CLASSES + 1, norm_layer=nn.BatchNorm2d)
    head = lite(maps.channels, anchors) if depthwise else Head(maps.channels, anchors)
    return TorchvisionSSD(maps, generator, (side, side), CLASSES + 1, head=head)


def torchvision_faster_rcnn(side: int) -> TorchvisionFasterRCNN:
    network: Any = timm.create_model("mobilenetv1_100")
    body: Any = nn.Sequential(network.conv_stem, network.bn1, *network.blocks[:-1])
    body.out_channels = 512
    head = nn.Sequential(network.blocks[-1], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return TorchvisionFasterRCNN(
        body,
        min_size=side,
        max_size=side,
        rpn_anchor_generator=AnchorGenerator((tuple(side * s for s in ANCHOR_SIDES),), (RATIOS,)),
        rpn_pre_nms_top_n_train=2400,
        rpn_pre_nms_top_n_test=2400,
        rpn_post_nms_top_n_train=1200,
        rpn_post_nms_top_n_test=300,
        box_roi_pool=MultiScaleRoIAlign(["0"], CROP, 2),
        box_head=head,
        box_predictor=FastRCNNPredictor(1024, CLASSES + 1),
        box_batch_size_per_image=64,
        box_nms_thresh=0.6,
    )


# our detector, input side, images per batch, torchvision's counterpart
CASES: dict[str, tuple[type[Detector], int, int, Callable[[int], nn.Module] | None]] = {
    "ssd": (SSD, 300, 16, partial(torchvision_ssd, depthwise=False)),
    "ssdlite": (SSDLite, 320, 16, partial(torchvision_ssd, depthwise=True)),
    "faster_rcnn": (FasterRCNN, 300, 4, torchvision_faster_rcnn),
    "ssd_fpn": (SSDFPN, 640, 2, None),
    "pan": (PAN, 320, 16, None),
}


def autocast() -> AbstractContextManager:
    return torch.autocast("cpu", torch.bfloat16, enabled=lightning_precision("auto") == "bf16-mixed")


def threshold(predictor: nn.Module, call: Callable[[], Any], images: int) -> float:
    """The score that CANDIDATES pairs per image exceed, in the class outputs of `predictor` during `call`."""
    said: list[Tensor] = []
    hook = predictor.register_forward_hook(lambda _module, _inputs, outputs: said.append(class_scores(outputs)))
    with torch.inference_mode():
        call()
    hook.remove()
    return float(torch.cat(said).topk(CANDIDATES * images + 1).values[-1])


def class_scores(outputs: Any) -> Tensor:
    """Probabilities of all classes but the background, flattened."""
    if isinstance(outputs, dict):  # torchvision's SSD head
        return outputs["cls_logits"].float().softmax(-1)[..., 1:].flatten()
    return outputs[0].float().softmax(-1)[..., 1:].flatten()  # a box predictor


def compare(name: str, rounds: int, batch: int | None) -> None:
    kind, side, own_batch, peer = CASES[name]
    batch = batch or own_batch
    torch.manual_seed(0)
    ours = kind(MobileNetV1(strides=kind.strides), CLASSES, side).to(memory_format=torch.channels_last)
    theirs = peer(side) if peer else None
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    if batch > 1:  # batch normalization of a 1 x 1 map needs two images
        compare_training(f"{name} {side}", ours, theirs, images, rounds)
    compare_inference(f"{name} {side}", ours, theirs, images, rounds)


def compare_training(name: str, ours: Detector, theirs: nn.Module | None, images: Tensor, rounds: int) -> None:
    batch, side = len(images), images.shape[-1]
    corner = torch.rand(batch, OBJECTS, 2) * 0.66 * side
    boxes = torch.cat([corner, corner + 20 + torch.rand(batch, OBJECTS, 2) * 0.23 * side], dim=-1)
    labels = torch.randint(0, CLASSES, (batch, OBJECTS))
    parts: dict[str, list[float]] = {}
    calls: dict[str, Callable[[], object]] = {}

    optimizer = torch.optim.AdamW(ours.parameters(), fused=True)

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
        optimizer.step()
        optimizer.zero_grad()
        marks.append(perf_counter())
        for part, start, end in zip(("forward", "loss", "backward", "optimizer"), marks, marks[1:], strict=False):
            parts.setdefault(part, []).append(end - start)

    calls["ours"] = train_ours
    if theirs:
        floats = as_floats(images)
        targets = [{"boxes": b, "labels": label + 1} for b, label in zip(boxes, labels, strict=True)]
        their_optimizer = torch.optim.AdamW(theirs.parameters())

        def train_theirs() -> None:
            as_it_comes()
            torch.stack(list(theirs(floats, targets).values())).sum().backward()
            their_optimizer.step()
            their_optimizer.zero_grad()

        calls["torchvision"] = train_theirs
    ours.train()
    show(f"{name}, batch {batch}, training", seconds(calls, rounds))
    total = sum(sum(values) for values in parts.values())
    print("   our step:", ", ".join(f"{part} {100 * sum(v) / total:.0f} %" for part, v in parts.items()))


def compare_inference(name: str, ours: Detector, theirs: nn.Module | None, images: Tensor, rounds: int) -> None:
    batch = len(images)
    ours.eval()
    fold_norms(ours)  # as tasks.predict does
    with torch.inference_mode(), autocast():
        outputs = ours(ours.preprocess(images))
    if isinstance(ours, FasterRCNN):
        ours.score_threshold = 0.5
        lowest = threshold(ours.roi_heads["box_predictor"], lambda: ours.postprocess(outputs), batch)
    else:
        lowest = float(ours.class_logits(outputs).float().sigmoid().flatten().topk(CANDIDATES * batch + 1).values[-1])
    ours.score_threshold = lowest

    @torch.inference_mode()
    def infer_ours() -> None:
        keep_freed_memory()
        with autocast():
            ours.postprocess(ours(ours.preprocess(images)))

    calls: dict[str, Callable[[], object]] = {"ours": infer_ours}
    if theirs:
        floats = as_floats(images)
        theirs.eval()
        stage: Any = theirs.roi_heads if isinstance(theirs, TorchvisionFasterRCNN) else theirs
        stage.score_thresh = 0.99
        predictor: Any = stage.box_predictor if isinstance(theirs, TorchvisionFasterRCNN) else theirs.head
        stage.score_thresh = threshold(predictor, lambda: theirs(floats), batch)

        @torch.inference_mode()
        def infer_theirs() -> None:
            as_it_comes()
            theirs(floats)

        calls["torchvision"] = infer_theirs
    show(f"{name}, batch {batch}, inference", seconds(calls, rounds))


def as_floats(images: Tensor) -> list[Tensor]:
    """Images (B, 3, H, W) uint8 as torchvision's detectors take them."""
    return [image.float() / 255 for image in images]


def show(what: str, times: dict[str, float]) -> None:
    cells = "".join(f"  {name} {1e3 * t:.{0 if t > 0.05 else 1}f} ms" for name, t in times.items())
    print(f"{what}:{cells}" + (f"  ratio {times['torchvision'] / times['ours']:.2f}" if len(times) > 1 else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("detectors", nargs="*", help=f"among {', '.join(CASES)}; all where none is named")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, help="images per batch; 1 measures inference only")
    arguments = parser.parse_args()
    if unknown := set(arguments.detectors) - set(CASES):
        parser.error(f"unknown detectors {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    print(machine())
    for name in arguments.detectors or CASES:
        compare(name, arguments.rounds, arguments.batch)


if __name__ == "__main__":
    main()
