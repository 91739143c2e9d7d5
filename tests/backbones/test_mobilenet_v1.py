"""The shape of the network."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones.base import no_decay_parameters, scaled_resolution
from backbones.mobilenet_v1 import MobileNetV1, Padding, Variant


@given(
    alpha=st.floats(0.05, 2),
    variant=st.sampled_from(["separable", "conv", "shallow"]),
    padding=st.sampled_from(["same", "symmetric"]),
)
@settings(max_examples=12)
def test_it_says_its_channels_and_strides(alpha: float, variant: Variant, padding: Padding) -> None:
    strides = (2, 4, 8, 16, 32)
    with torch.device("meta"):
        network = MobileNetV1(alpha, variant=variant, padding=padding, strides=strides)
        maps = network(torch.empty(1, 3, 64, 64))
    for x, channels, stride, depth in zip(maps, network.channels, strides, (64, 128, 256, 512, 1024), strict=True):
        assert x.shape == (1, channels, 64 // stride, 64 // stride)
        assert channels == max(8, int(depth * alpha))


@pytest.mark.parametrize("alpha", [0, -1, 2.1])
def test_alpha_outside_its_range(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"\(0, 2\]"):
        MobileNetV1(alpha)


def test_strides_that_it_lacks() -> None:
    with pytest.raises(ValueError, match="increasing choice"):
        MobileNetV1(strides=(16, 64))


@pytest.mark.parametrize(
    ("base", "rho", "side"),
    [(224, 6 / 7, 192), (224, 5 / 7, 160), (224, 4 / 7, 128), (300, 1, 300), (300, 0.5, 160)],
)
def test_rho(base: int, rho: float, side: int) -> None:
    assert scaled_resolution(base, rho) == side


def test_no_decay_on_depthwise_norms_and_biases() -> None:
    network = MobileNetV1(0.25)
    no_decay = no_decay_parameters(network)
    names = {name for name, p in network.named_parameters() if p not in no_decay}
    assert names == {"blocks.0.conv.weight"} | {f"blocks.{i}.1.conv.weight" for i in range(1, 14)}
