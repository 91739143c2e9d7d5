"""A convolution that clips what it computes equals one that is clipped afterwards."""

from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from backbones import mobilenet_v1
from backbones.mobilenet_v1 import ConvNormAct, Padding


def folded(kernel: Literal[1, 3], stride: int, groups: int, activation: type[nn.Module], padding: Padding) -> Any:
    torch.manual_seed(0)
    layer = ConvNormAct(8, 8, kernel, stride, groups, padding=padding, activation=activation)
    assert isinstance(layer.norm, nn.BatchNorm2d)
    layer.norm.weight.data.uniform_(0.5, 4)
    layer.norm.bias.data.normal_()
    layer.eval().fold()
    return layer


@given(
    kind=st.sampled_from([(1, 1, 1), (3, 1, 1), (3, 2, 1), (3, 1, 8), (3, 2, 8)]),
    activation=st.sampled_from([nn.ReLU6, nn.ReLU]),
    padding=st.sampled_from(["same", "symmetric"]),
    sides=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    channels_last=st.booleans(),
)
def test_outputs_are_equal(
    kind: tuple[Literal[1, 3], int, int],
    activation: type[nn.Module],
    padding: Padding,
    sides: tuple[int, int],
    dtype: torch.dtype,
    channels_last: bool,
) -> None:
    """But for rounding, under autocast too."""
    layer = folded(*kind, activation, padding)
    x = 3 * torch.randn(2, 8, *sides)
    if channels_last:
        x, layer = (each.to(memory_format=torch.channels_last) for each in (x, layer))
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        expected = layer.act(layer.conv(x.clone()))
        actual = layer(x)
    assert actual.dtype == expected.dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance / 2)


def test_when_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, real = [], mobilenet_v1.convolve_and_clip

    def counted(*args: Any) -> Tensor:
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(mobilenet_v1, "convolve_and_clip", counted)
    layer, x = folded(3, 2, 8, nn.ReLU6, "same"), torch.randn(1, 8, 9, 9)

    def taken(layer: nn.Module, x: Tensor, grad: bool = False) -> bool:
        calls.clear()
        with torch.set_grad_enabled(grad):
            layer(x)
        return bool(calls)

    assert taken(layer, x)
    assert not taken(layer, x, grad=True)
    assert not taken(folded(1, 1, 1, nn.Hardswish, "same"), x)
    assert not taken(ConvNormAct(8, 8).eval(), x)
    assert not taken(folded(1, 1, 1, nn.ReLU6, "same").double(), x.double())
    with torch.no_grad():
        program = torch.export.export(layer, (x,))
        torch.jit.trace(layer, (x,), check_trace=False)
    assert len(calls) == 0
    assert not any("mkldnn" in str(node.target) for node in program.graph.nodes)
    layer.conv.register_forward_hook(lambda *_: None)  # as what counts costs and what takes int8's ranges has
    assert not taken(layer, x)
