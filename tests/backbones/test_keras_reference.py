"""Keras weights through our network against the same arithmetic written out in numpy, layer by layer."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from backbones.weights import build_mobilenet_v1
from tests.backbones.test_weights import keras_file

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)  # of the depthwise layers


def padded_as_tensorflow(x: np.ndarray, stride: int) -> np.ndarray:
    """SAME padding of x (H, W, C) for a 3 x 3 kernel: the odd pixel goes below and to the right."""
    pads = []
    for side in x.shape[:2]:
        outputs = -(-side // stride)
        total = max((outputs - 1) * stride + 3 - side, 0)
        pads.append((total // 2, total - total // 2))
    return np.pad(x, (*pads, (0, 0)))


def patches(x: np.ndarray, stride: int) -> np.ndarray:
    """(H', W', C, 3, 3)."""
    windows = np.lib.stride_tricks.sliding_window_view(padded_as_tensorflow(x, stride), (3, 3), axis=(0, 1))
    return windows[::stride, ::stride]


def reference(path: Path, image: np.ndarray) -> list[np.ndarray]:
    """Outputs (H, W, C) of the first layer and of the 13 blocks, in float64."""
    with h5py.File(path) as file:

        def get(name: str) -> np.ndarray:
            return file[f"{name}:0"][()].astype(np.float64)

        def norm_relu6(x: np.ndarray, layer: str) -> np.ndarray:
            gamma, beta, mean, variance = (
                get(f"{layer}_bn/{layer}_bn/{key}") for key in ("gamma", "beta", "moving_mean", "moving_variance")
            )
            return np.clip((x - mean) / np.sqrt(variance + 1e-3) * gamma + beta, 0, 6)

        x = norm_relu6(np.einsum("hwcij,ijco->hwo", patches(image, 2), get("conv1/conv1/kernel")), "conv1")
        outputs = [x]
        for i, stride in enumerate(STRIDES, start=1):
            kernel = get(f"conv_dw_{i}/conv_dw_{i}/depthwise_kernel")[..., 0]
            x = norm_relu6(np.einsum("hwcij,ijc->hwc", patches(x, stride), kernel), f"conv_dw_{i}")
            x = norm_relu6(x @ get(f"conv_pw_{i}/conv_pw_{i}/kernel")[0, 0], f"conv_pw_{i}")
            outputs.append(x)
    return outputs


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("side", [64, 75])
def test_every_layer_equals_the_reference(alpha: float, side: int, tmp_path: Path) -> None:
    path = keras_file(tmp_path / "keras.h5", alpha)
    network = build_mobilenet_v1(alpha=alpha, weights=str(path)).eval()
    outputs: list[torch.Tensor] = []
    for block in network.blocks:
        block.register_forward_hook(lambda *arguments: outputs.append(arguments[2][0].clone()))
    image = np.random.default_rng(1).uniform(-1, 1, (side, side, 3)).astype(np.float32)
    with torch.no_grad():
        network(torch.from_numpy(image).permute(2, 0, 1)[None])
    expected = reference(path, image)
    assert len(outputs) == len(expected) == 14
    for ours, theirs in zip(outputs, expected, strict=True):
        assert theirs.std() > 0.01  # neither dead nor clipped throughout
        np.testing.assert_allclose(ours.permute(1, 2, 0).numpy(), theirs, rtol=0, atol=1e-4)
