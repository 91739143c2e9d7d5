"""The fast strided depthwise convolution against torch's own, in double precision."""

from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from backbones.depthwise import StridedDepthwise
from backbones.mobilenet_v1 import ConvNormAct, MobileNetV1, Padding, SpatialConv2d, fold_norms


@given(
    height=st.integers(3, 12),
    width=st.integers(3, 12),
    channels=st.integers(2, 5),
    padding=st.sampled_from(["same", "symmetric"]),
)
@settings(max_examples=25)
def test_output_and_gradients(height: int, width: int, channels: int, padding: Padding) -> None:
    generator = torch.Generator().manual_seed(height * 100 + width)
    x = torch.randn(2, channels, height, width, generator=generator, dtype=torch.float64, requires_grad=True)
    layer = SpatialConv2d(channels, channels, 2, channels, padding).double()

    sides = (width, width, height, height)  # F.pad's order: left, right, top, bottom
    if padding == "same":  # TensorFlow: max((ceil(n / 2) - 1) * 2 + 3 - n, 0), the smaller half before
        total = [max((-(-n // 2) - 1) * 2 + 3 - n, 0) for n in sides]
        pads = [total[0] // 2, total[1] - total[1] // 2, total[2] // 2, total[3] - total[3] // 2]
    else:
        pads = [1, 1, 1, 1]
    expected = F.conv2d(F.pad(x, pads), layer.weight, None, 2, 0, 1, channels)

    actual = layer(x)
    assert torch.equal(actual.detach(), expected.detach()) or torch.allclose(actual, expected, atol=1e-12)
    grad = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(actual, [x, layer.weight], grad),
        torch.autograd.grad(expected, [x, layer.weight], grad),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_the_fast_path_is_taken_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    apply = StridedDepthwise.apply

    def counted(*args: Any) -> Any:
        calls.append(args)
        return apply(*args)

    monkeypatch.setattr(StridedDepthwise, "apply", counted)
    SpatialConv2d(4, 4, 2, 4, "same")(torch.randn(1, 4, 8, 8, requires_grad=True))
    assert calls


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (3, 1, 4), (3, 2, 4), (3, 2, 1)])
def test_frozen_statistics_are_part_of_the_convolution(kernel: Literal[1, 3], stride: int, groups: int) -> None:
    """Outputs and all gradients are those of separate convolution, normalization and activation."""
    torch.manual_seed(0)
    layer = ConvNormAct(4, 4, kernel, stride, groups).double()
    norm = layer.norm
    assert isinstance(norm, nn.BatchNorm2d)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        assert tensor is not None
        tensor.uniform_(0.5, 2)
    norm.eval()
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64, requires_grad=True)
    learned = [x, layer.conv.weight, norm.weight, norm.bias]
    expected = layer.act(norm(layer.conv(x)))
    actual = layer(x)
    torch.testing.assert_close(actual, expected)
    grad = torch.randn_like(expected)
    for ours, theirs in zip(*(torch.autograd.grad(y, learned, grad) for y in (actual, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("side", [20, 21])
def test_folding_keeps_the_outputs(side: int) -> None:
    torch.manual_seed(0)
    network = MobileNetV1(0.25, strides=(16, 32))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected = network.eval()(x)
        actual = fold_norms(network)(x)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("groups", [1, 4])
def test_a_single_pixel_has_finite_bfloat16_gradients(groups: int) -> None:
    layer = SpatialConv2d(4, 4, 2, groups, "same")
    for _ in range(20):
        layer.zero_grad()
        x = torch.randn(2, 4, 1, 1, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            layer(x).sum().backward()
        grad = layer.weight.grad
        assert grad is not None
        assert (grad.abs().sum(dim=(0, 1)).flatten() > 0).tolist() == [False] * 4 + [True] + [False] * 4
