"""All detectors: their published costs, their losses on many backbones, and that they learn."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from backbones.base import Backbone
from backbones.cost import measure_cost
from backbones.errors import UserError
from backbones.mobilenet_v1 import MobileNetV1
from backbones.timm import build_timm
from backbones.torchvision import build_torchvision
from data.coco import CocoData
from data.detection import DetectionSet
from tasks.detection.assignment import task_aligned
from tasks.detection.coco_eval import CocoEvaluator, summary
from tasks.detection.detector import Detector
from tasks.detection.faster_rcnn import FasterRCNN
from tasks.detection.losses import distribution_focal
from tasks.detection.pan import PAN
from tasks.detection.ssd import SSD, SSDFPN, SSDLite
from tasks.engine.checkpoint import load_checkpoint
from tasks.engine.task import restore
from tasks.export.exporter import evaluation_data
from tests.conftest import command, untrained

DETECTORS = (SSD, SSDLite, SSDFPN, PAN, FasterRCNN)


@pytest.mark.parametrize(
    ("detector", "resolution", "madds", "params"),
    [
        (SSD, 300, 1.237, 6.820),
        (SSDLite, 320, 1.322, 5.247),  # published as 1.32 and 5.25
        (FasterRCNN, 300, 25.224, 6.066),
        (FasterRCNN, 600, 30.494, 6.066),
    ],
)
def test_published_costs(detector: type[Detector], resolution: int, madds: float, params: float) -> None:
    cost = detector(MobileNetV1(strides=detector.strides), 90, resolution).cost(resolution)
    assert (round(cost.madds / 1e9, 3), round(cost.params / 1e6, 3)) == (madds, params)


def test_faster_rcnns_cost_by_the_command() -> None:
    result = command("cost", "detector=faster_rcnn", "task.num_classes=90", "task.resolution=600", "format=json")
    cost = json.loads(result.stdout)
    assert (round(cost["madds"] / 1e9, 3), round(cost["params"] / 1e6, 3)) == (30.494, 6.066)


def test_pan_names_the_largest_boxes_that_it_can_give(caplog: pytest.LogCaptureFixture) -> None:
    """Seven strides of 64 px to each side."""
    for resolution in (640, 896):
        PAN(MobileNetV1(0.25, strides=PAN.strides), 2, resolution)
    assert not caplog.text
    PAN(MobileNetV1(0.25, strides=PAN.strides), 2, 1024)
    assert "at 1024 px, boxes can be at most 896 px wide or high" in caplog.text


def test_an_export_sees_images_as_the_end_of_the_training_did(scenes: Path, tmp_path: Path) -> None:
    """Mosaics end before the training does."""
    more = ("task=detection", "data=demo_scenes", f"data.root={scenes}", "data.train=24", "data.val=8")
    module = restore(load_checkpoint(untrained(tmp_path, *more, "backbone.alpha=0.25")))
    images = evaluation_data({"root": None}, module)
    for _ in images.train_dataloader():
        break
    assert cast(DetectionSet, images.dataset("train")).progress.done == 1


def test_pan_is_light() -> None:
    body = measure_cost(MobileNetV1(), 320)
    whole = measure_cost(PAN(MobileNetV1(strides=PAN.strides), 80, 320), 320)
    assert whole.params - body.params < 0.6e6
    assert whole.madds - body.madds < 0.4e9


BACKBONES: dict[str, Callable[..., Backbone]] = {
    "mobilenet_v1": lambda strides: MobileNetV1(0.25, strides=strides),
    **{
        name: lambda strides, name=name: build_timm(name=name, strides=strides)
        for name in ("mobilenetv2_035", "mobilenetv3_small_050", "mobilenetv4_conv_small_050", "inception_v3")
    },
    **{
        name: lambda strides, name=name: build_torchvision(name=name, strides=strides)
        for name in ("alexnet", "squeezenet1_1")
    },
}


EACH_KIND = ("mobilenet_v1", "mobilenetv3_small_050", "squeezenet1_1")  # of this suite, timm and torchvision


@pytest.mark.parametrize(
    ("detector", "name"),
    [*((PAN, name) for name in BACKBONES), *((other, name) for other in (SSD, FasterRCNN) for name in EACH_KIND)],
)
def test_backbones_train_detectors(detector: type[Detector], name: str) -> None:
    torch.manual_seed(0)
    model = detector(BACKBONES[name](strides=detector.strides), 3, 128)
    images = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    boxes = torch.tensor([[[10.0, 10, 80, 90], [20, 30, 60, 120]], [[30.0, 30, 100, 90], [0, 0, 0, 0]]])
    losses = model.loss(model(model.preprocess(images)), boxes, torch.tensor([[0, 2], [1, -1]]))
    torch.stack(list(losses.values())).sum().backward()
    assert all(value.isfinite() for value in losses.values())
    learned = [p.grad.abs().sum() > 0 for p in model.backbone.parameters() if p.grad is not None]
    assert any(learned)


def test_a_backbone_that_is_not_there() -> None:
    for name in ("resnet18x", "mobilenetv3_small_050.a/b"):
        with pytest.raises(UserError, match="timm has no such model"):
            build_timm(name=name)
    with pytest.raises(UserError, match=r"backbone.name=vit_tiny_patch16_224 has no map at stride 32"):
        build_timm(name="vit_tiny_patch16_224", strides=(16, 32))
    result = command("cost", "backbone=timm", "backbone.alpha=0.5")
    assert result.stderr == "error: unknown setting 'backbone.alpha': backbone=timm has no alpha, only mobilenet_v1\n"


@given(seed=st.integers(0, 10_000), counts=st.lists(st.integers(0, 3), min_size=1, max_size=3))
@settings(max_examples=20)
def test_task_alignment_is_that_of_a_plain_loop(seed: int, counts: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    images, points, top = len(counts), 36, 4
    centres = (
        torch.stack(torch.meshgrid(torch.arange(6), torch.arange(6), indexing="xy"), -1).reshape(-1, 2) + 0.5
    ) * 10
    predicted = torch.cat([centres - 15, centres + 15], 1) + torch.randn(images, points, 4, generator=generator) * 4
    scores = torch.rand(images, points, 3, generator=generator)
    corner = torch.rand(images, max(counts), 2, generator=generator) * 30
    truth = torch.cat([corner, corner + 10 + torch.rand(images, max(counts), 2, generator=generator) * 25], -1)
    labels = torch.randint(0, 3, (images, max(counts)), generator=generator)
    for i, count in enumerate(counts):
        labels[i, count:] = -1
    index, quality = task_aligned(scores, predicted, centres, truth, labels, top)

    for i, count in enumerate(counts):
        iou = box_iou(truth[i, :count], predicted[i])
        wanted: dict[int, tuple[float, int]] = {}  # point: (overlap, box)
        alignment = {}
        for n in range(count):
            inside = [
                a
                for a in range(points)
                if (centres[a] > truth[i, n, :2]).all() and (centres[a] < truth[i, n, 2:]).all()
            ]
            for a in inside:
                alignment[a, n] = float(scores[i, a, labels[i, n]] * iou[n, a] ** 6)
            for a in sorted(inside, key=lambda a: -alignment[a, n])[:top]:
                wanted[a] = max(wanted.get(a, (-1.0, -1)), (float(iou[n, a]), n))
        expected = [wanted[a][1] if a in wanted else -1 for a in range(points)]
        assert index[i].tolist() == expected
        for a, n in enumerate(expected):
            if n < 0:
                assert quality[i, a] == 0
                continue
            mine = [b for b, owner in enumerate(expected) if owner == n]
            best, most = max(alignment[b, n] for b in mine), max(float(iou[n, b]) for b in mine)
            if best > 1e-9:
                assert quality[i, a].item() == pytest.approx(alignment[a, n] / best * most, rel=1e-3, abs=1e-6)


def test_autocast_does_not_round_the_boxes() -> None:
    torch.manual_seed(0)
    model = PAN(MobileNetV1(0.25, strides=PAN.strides), 1, 64, channels=8)
    outputs = torch.randn(1, len(model.points), 32) * 3, torch.zeros(1, len(model.points), 1)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.decode_all_boxes(outputs)
    torch.testing.assert_close(rounded, model.decode_all_boxes(outputs), atol=1e-3, rtol=0)


def test_distribution_focal_loss_is_least_at_the_distance() -> None:
    distances = torch.tensor([[2.3, 0.0, 6.9, 4.0]])
    lower = distances.long()
    right = torch.zeros(1, 4, 8)
    right.scatter_(2, lower[..., None], (1 - (distances - lower))[..., None])
    right.scatter_add_(2, (lower + 1)[..., None], (distances - lower)[..., None])
    entropy = -(right * right.clamp(min=1e-9).log()).sum(-1)
    best = distribution_focal(right.clamp(min=1e-9).log(), distances)
    torch.testing.assert_close(best, entropy, atol=1e-4, rtol=1e-4)
    assert (distribution_focal(torch.zeros(1, 4, 8), distances) > best).all()


@pytest.mark.parametrize(
    ("detector", "settings"),
    [
        (SSD, {"loss": "focal"}),
        (SSD, {"loss": "hard_negative"}),
        (PAN, {}),
        (FasterRCNN, {"train_proposals": 24}),
    ],
)
def test_it_overfits_four_scenes(detector: type[Detector], settings: dict, scenes: Path, tmp_path: Path) -> None:
    """AP50 reaches 0.77 or more, depending on the machine's rounding; without learning it stays near 0."""
    content = json.loads((scenes / "val.json").read_text())
    content["images"] = content["images"][:4]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    (tmp_path / "few.json").write_text(json.dumps(content))
    torch.manual_seed(0)
    few = str(tmp_path / "few.json")
    files = {"train_json": few, "train_images": "val", "val_json": few, "val_images": "val"}
    data = CocoData(str(scenes), 128, **files, workers=0, batch_size=4)
    backbone = MobileNetV1(0.25, strides=detector.strides)
    model = detector(backbone, len(data.labels), 128, **settings)
    assert train_and_measure(model, data, steps=100) > 0.6


def train_and_measure(model: Detector, data: CocoData, steps: int) -> float:
    """AP50 on the one batch of validation images that the model was trained on for `steps`."""
    batch = next(iter(data.val_dataloader()))
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    for _ in range(steps):
        losses = model.loss(model(model.preprocess(batch.images)), batch.boxes, batch.labels)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        schedule.step()

    # With the batch's own statistics: a hundred steps do not settle the running ones.
    model.eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train()
    with torch.no_grad():
        found = model.postprocess(model(model.preprocess(batch.images)))
    evaluator = CocoEvaluator()
    scale = (batch.sizes.flip(1).repeat(1, 2) / model.resolution).numpy().astype(np.float32)
    for i, image_id in enumerate(batch.image_ids):
        kept = found.scores[i].numpy() > 0
        boxes, scores, labels = (table[i].numpy()[kept] for table in found)
        evaluator.add(image_id, boxes * scale[i], scores, labels)
    return summary(evaluator.evaluate(data.records("val"), data.labels), data.labels)["ap50"]
