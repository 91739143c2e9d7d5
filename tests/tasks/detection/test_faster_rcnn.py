"""The crops of both stages are torchvision's, and so are losses, gradients and detections."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops import roi_align as torchvisions

from backbones.mobilenet_v1 import MobileNetV1
from tasks.detection.faster_rcnn import ANCHOR_SIDES, CROP, RATIOS, FasterRCNN
from tasks.detection.roi_align import roi_align
from tasks.engine.config import load_config
from tasks.engine.options import locate


@given(seed=st.integers(0, 10_000), height=st.integers(1, 9), width=st.integers(1, 9), size=st.integers(1, 5))
@settings(max_examples=40)
def test_crops_and_their_gradient_are_torchvisions(seed: int, height: int, width: int, size: int) -> None:
    """For boxes inside, across and far outside of the map, without area, and with swapped corners."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, 3, height, width, generator=generator).requires_grad_()
    corner = torch.rand(2, 6, 2, generator=generator) * 260 - 80
    boxes = torch.cat([corner, corner + torch.rand(2, 6, 2, generator=generator) * 200 - 20], dim=-1)
    images = torch.arange(2.0).repeat_interleave(6)[:, None]
    wanted = torchvisions(maps, torch.cat([images, boxes.flatten(0, 1)], dim=1), size, 1 / 16, sampling_ratio=2)
    got = roi_align(maps, boxes, size, 1 / 16)
    torch.testing.assert_close(got, wanted, atol=2e-5, rtol=1e-5)
    grad = torch.randn(wanted.shape, generator=generator)
    (wanted_grad,), (got_grad,) = (torch.autograd.grad(crops, maps, grad) for crops in (wanted, got))
    torch.testing.assert_close(got_grad, wanted_grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("resolution", [96, 300, 600])
def test_anchors_are_those_of_torchvisions_generator(resolution: int) -> None:
    """They are 16 pixels apart, as the map's cells are, also where the side is no multiple of 16."""
    ours = FasterRCNN(MobileNetV1(0.25, strides=(16,)), 3, resolution)
    size = ours.backbone.sizes(resolution)[-1]
    sides = tuple(side * resolution for side in ANCHOR_SIDES)
    pixels = torch.empty(1, 3, 16 * size, 16 * size)
    (wanted,) = AnchorGenerator((sides,), (RATIOS,))(
        ImageList(pixels, [(16 * size,) * 2]), [torch.empty(1, 1, size, size)]
    )
    torch.testing.assert_close(ours.anchors, wanted, atol=0, rtol=0)


def test_the_second_stage_is_of_the_backbone_too() -> None:
    """Its pretrained blocks learn at the backbone's rate, and are frozen with it."""
    place = ("task=detection", "detector=faster_rcnn", "backbone.alpha=0.25", "task.resolution=96", "trainer.lr=0.01")
    config = load_config([*place, "trainer.backbone_lr_scale=0.1"])
    module = locate(config, "task")(config, ["a"], load_weights=False)
    head = {*module.model.roi_heads["box_head"].parameters()}
    rates = {round(group["lr"], 6) for group in module.parameter_groups() if head & {*group["params"]}}
    assert rates == {0.001}
    module.set_backbone_frozen(True)
    assert not any(p.requires_grad for p in head)
    assert all(p.requires_grad for p in module.model.roi_heads["box_predictor"].parameters())


def model() -> FasterRCNN:
    torch.manual_seed(0)
    return FasterRCNN(MobileNetV1(0.25, strides=(16,)), 3, 96, proposals=12)


def images() -> Tensor:
    return torch.randint(0, 256, (2, 3, 96, 96), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_losses_and_gradients_are_those_of_torchvisions_crops() -> None:
    """With 48 proposals and each image's boxes, which differ in number: fewer than requested."""
    boxes = torch.tensor([[[10.0, 10, 60, 70], [20, 30, 60, 90]], [[30.0, 30, 80, 90], [0, 0, 0, 0]]])
    labels, found = torch.tensor([[0, 2], [1, -1]]), []
    for crops in (None, MultiScaleRoIAlign(["0"], CROP, 2)):
        ours = model()
        ours.roi_heads["box_roi_pool"] = crops or ours.roi_heads["box_roi_pool"]
        torch.manual_seed(2)
        losses = ours.loss(ours(ours.preprocess(images())), boxes, labels)
        torch.stack(list(losses.values())).sum().backward()
        found.append((losses, [p.grad for p in ours.parameters() if p.grad is not None]))
    (losses, grads), (wanted_losses, wanted_grads) = found
    torch.testing.assert_close(losses, wanted_losses)
    for grad, wanted in zip(grads, wanted_grads, strict=True):  # some units' activations are nearly tied
        assert (grad - wanted).norm() < 0.02 * wanted.norm()


@pytest.mark.parametrize("autocast", [False, True])
def test_detections_are_those_of_torchvisions_crops(autocast: bool) -> None:
    """Also where half-precision maps are postprocessed outside of autocast."""
    found = []
    for crops in (None, MultiScaleRoIAlign(["0"], CROP, 2)):
        ours = model().eval()
        ours.roi_heads["box_roi_pool"] = crops or ours.roi_heads["box_roi_pool"]
        with torch.inference_mode():
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                maps = ours(ours.preprocess(images()))
            found.append(ours.postprocess(maps)._asdict())
    assert (found[0]["scores"] > 0).sum() > 20
    torch.testing.assert_close(*found, atol=1e-3, rtol=1e-4)
