"""SSD's parts against plain loops and torchvision, and the whole against the paper's cost."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import batched_nms, box_iou, sigmoid_focal_loss

from backbones.mobilenet_v1 import MobileNetV1
from tasks.detection.anchors import assign, decode, encode, ssd_anchors
from tasks.detection.losses import hard_negative_cross_entropy, one_hot, sigmoid_focal
from tasks.detection.ssd import SSD, SSDFPN
from tests.conftest import command

SIZES = (19, 10, 5, 3, 2, 1)


def random_boxes(generator: torch.Generator, *shape: int, side: float = 300) -> Tensor:
    corner = torch.rand(*shape, 2, generator=generator) * side * 0.8
    size = 4 + torch.rand(*shape, 2, generator=generator) * side * 0.4
    return torch.cat([corner, corner + size], dim=-1)


def make_ssd(num_classes: int = 3, **settings: object) -> SSD:
    torch.manual_seed(0)
    return SSD(MobileNetV1(0.25, strides=SSD.strides), num_classes, 96, **settings)


def test_anchors_of_ssd_300() -> None:
    anchors = ssd_anchors(SIZES, 300)
    assert anchors.shape == (1917, 4)
    centre = torch.tensor([0.5 / 19 * 300, 0.5 / 19 * 300])
    torch.testing.assert_close(anchors[0], torch.cat([centre - 15, centre + 15]))  # scale 0.1
    width, height = anchors[1, 2] - anchors[1, 0], anchors[1, 3] - anchors[1, 1]
    assert (width / height).item() == pytest.approx(2)
    assert (width * height).sqrt().item() == pytest.approx(0.2 * 300)
    last = anchors[-1, 2] - anchors[-1, 0]  # sqrt(0.95 * 1)
    assert last.item() == pytest.approx(300 * 0.95**0.5)


def loop_assign(anchors: Tensor, boxes: Tensor, labels: Tensor, threshold: float) -> list[int]:
    """One image, one anchor at a time."""
    objects = [n for n in range(len(labels)) if labels[n] >= 0]
    iou = [[box_iou(a[None], boxes[n][None]).item() for n in range(len(labels))] for a in anchors]
    result = []
    for row in iou:
        best = max(objects, key=lambda n: row[n], default=None)
        result.append(best if best is not None and row[best] >= threshold else -1)
    for n in objects:
        best_anchor = max(range(len(anchors)), key=lambda a: iou[a][n])
        if iou[best_anchor][n] > 0:
            result[best_anchor] = n
    return result


@given(
    seed=st.integers(0, 10_000),
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    threshold=st.sampled_from([0.3, 0.5, 0.7]),
)
@settings(max_examples=25)
def test_assignment_is_that_of_a_plain_loop(seed: int, counts: list[int], threshold: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    anchors = random_boxes(generator, 30, side=100)
    boxes = random_boxes(generator, len(counts), max(counts), side=100)
    labels = torch.randint(0, 3, (len(counts), max(counts)), generator=generator)
    for image, count in enumerate(counts):
        labels[image, count:] = -1
    actual = assign(anchors, boxes, labels, threshold)
    for image in range(len(counts)):
        assert actual[image].tolist() == loop_assign(anchors, boxes[image], labels[image], threshold)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20)
def test_decode_inverts_encode(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes, anchors = random_boxes(generator, 50), random_boxes(generator, 50)
    torch.testing.assert_close(decode(encode(boxes, anchors), anchors), boxes, atol=1e-2, rtol=1e-4)


def test_focal_loss_is_torchvisions() -> None:
    logits = torch.randn(2, 50, 4, requires_grad=True)
    classes = torch.randint(-1, 4, (2, 50))
    ours = sigmoid_focal(logits, classes, 0.75, 2.0)
    theirs = sigmoid_focal_loss(logits, one_hot(classes, 4, torch.float32), 0.75, 2.0, reduction="sum")
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits), strict=True):
        torch.testing.assert_close(a, b)


def test_hard_negatives_are_the_three_worst_of_each_image() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 40, 4)
    classes = torch.zeros(3, 40, dtype=torch.int64)
    classes[0, :2], classes[1, 5] = 1, 3  # the third image has no object: it still teaches one negative
    expected = torch.zeros(())
    for image in range(3):
        targets = torch.nn.functional.one_hot(classes[image], 4).float()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits[image], targets, reduction="none").sum(1)
        positive = classes[image] > 0
        quota = max(1, 3 * int(positive.sum()))
        expected += loss[positive].sum() + loss[~positive].sort(descending=True).values[:quota].sum()
    torch.testing.assert_close(hard_negative_cross_entropy(logits, classes, 3.0), expected)


@pytest.mark.parametrize("loss", ["focal", "hard_negative"])
def test_loss_falls_where_the_answer_is_right(loss: str) -> None:
    model = make_ssd(loss=loss)
    boxes, labels = torch.tensor([[[10.0, 10, 60, 60]], [[0.0, 0, 0, 0]]]), torch.tensor([[1], [-1]])
    index = assign(model.anchors, boxes, labels, 0.5)
    deltas = encode(boxes[:, :1].expand(-1, len(model.anchors), -1), model.anchors).nan_to_num()
    logits = torch.full((2, len(model.anchors), 4), -8.0)
    logits[..., 0] = 8
    logits[0, index[0] == 0] = torch.tensor([-8.0, -8, 8, -8])
    right = model.loss((deltas, logits), boxes, labels)
    assert right["class"] < 0.02
    assert right["box"] == 0
    wrong = model.loss((deltas, logits.roll(1, dims=-1)), boxes, labels)
    assert wrong["class"] > 1


def test_a_batch_without_any_object_has_a_finite_loss() -> None:
    model = make_ssd()
    outputs = model(model.preprocess(torch.zeros(2, 3, 96, 96, dtype=torch.uint8)))
    losses = model.loss(outputs, torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64))
    assert losses["box"] == 0
    assert losses["class"].isfinite()


@given(seed=st.integers(0, 1000), threshold=st.sampled_from([0.05, 0.5]))
@settings(max_examples=15)
def test_postprocess_is_that_of_a_loop_over_images(seed: int, threshold: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = make_ssd(candidates=60, max_detections=10)
    count = len(model.anchors)
    deltas = torch.randn(3, count, 4, generator=generator)
    logits = torch.randn(3, count, 4, generator=generator) * 2 - 3
    model.score_threshold = threshold
    actual = model.postprocess((deltas, logits))
    for image in range(3):
        scores = logits[image, :, 1:].sigmoid().flatten()
        best = scores.topk(60).indices
        best = best[scores[best] > threshold]
        boxes = decode(deltas[image], model.anchors)[best // 3].clamp(0, 96)
        keep = batched_nms(boxes, scores[best], best % 3, model.nms_iou)[:10]
        assert (actual.scores[image] > 0).sum() == len(keep)
        torch.testing.assert_close(actual.scores[image, : len(keep)], scores[best][keep])
        torch.testing.assert_close(actual.boxes[image, : len(keep)], boxes[keep])
        assert actual.labels[image, : len(keep)].tolist() == (best % 3)[keep].tolist()


def test_the_model_exports_alone() -> None:
    model = make_ssd().eval()
    images = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    inputs = model.preprocess(images)
    exported = torch.export.export(model, (inputs,))
    with torch.no_grad():
        for ours, theirs in zip(model(inputs), exported.module()(inputs), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_anchors_are_no_weights() -> None:
    assert not {"anchors", "mean", "std"} & make_ssd().state_dict().keys()


def test_cost_is_table_13s() -> None:
    result = command(
        "cost", "task=detection", "detector=ssd", "task.num_classes=90", "backbone.alpha=1.0", "format=json"
    )
    cost = json.loads(result.stdout)
    assert (round(cost["madds"] / 1e9, 3), round(cost["params"] / 1e6, 3)) == (1.237, 6.820)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.5])
def test_focal_loss_has_a_gradient_where_it_is_sure(gamma: float) -> None:
    logits = torch.tensor([[[30.0], [18.0], [-30.0]]], requires_grad=True)
    sigmoid_focal(logits, torch.tensor([[0, 0, -1]]), 0.25, gamma).backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())


def test_the_pyramid_can_mine_hard_negatives() -> None:
    boxes, labels, losses = torch.tensor([[[10.0, 10, 60, 60]]]), torch.tensor([[1]]), []
    for ratio in (1.0, 3.0):
        torch.manual_seed(0)
        backbone = MobileNetV1(0.25, strides=(8, 16, 32))
        model = SSDFPN(backbone, 2, 96, channels=16, head_layers=1, loss="hard_negative", negative_ratio=ratio).eval()
        losses.append(float(model.loss(model(torch.zeros(1, 3, 96, 96)), boxes, labels)["class"]))
    assert losses[0] < losses[1]
