"""Detectors that start from other weights: of another number of classes, and of TensorFlow's detection zoo."""

import itertools
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from backbones.errors import UserError
from backbones.mobilenet_v1 import MobileNetV1
from tasks.detection.ssd import SSD
from tasks.detection.tf_zoo import read_tf_zoo
from tasks.engine.checkpoint import load_matching_weights
from tests.backbones.test_keras_reference import patches

DEPTHS = (32, 64, 128, 128, 256, 256, *(512,) * 6, 1024, 1024)
EXTRAS = ((1024, 256, 512), (512, 128, 256), (256, 128, 256), (256, 64, 128))
MAPS = (512, 1024, 512, 256, 256, 128)


def zoo_file(path: Path, classes: int = 4) -> dict[str, np.ndarray]:
    """Random variables as ssd_mobilenet_v1_coco has them, and an optimizer's that must not disturb."""
    rng = np.random.default_rng(0)
    variables: dict[str, np.ndarray] = {"global_step": np.array(7)}

    def layer(name: str, kernel: str, *shape: int) -> None:
        outputs = shape[2] if kernel == "depthwise_weights" else shape[3]
        spread = (shape[0] * shape[1] * (1 if kernel == "depthwise_weights" else shape[2])) ** -0.5
        prefix = f"FeatureExtractor/MobilenetV1/{name}"
        variables[f"{prefix}/{kernel}"] = rng.normal(0, spread, shape)
        for key in ("gamma", "moving_variance"):
            variables[f"{prefix}/BatchNorm/{key}"] = rng.uniform(0.5, 1.5, outputs)
        for key in ("beta", "moving_mean"):
            variables[f"{prefix}/BatchNorm/{key}"] = rng.normal(0, 0.3, outputs)
        variables[f"{prefix}/{kernel}/RMSProp"] = np.zeros(shape)

    layer("Conv2d_0", "weights", 3, 3, 3, 32)
    for i, (before, after) in enumerate(itertools.pairwise(DEPTHS), start=1):
        layer(f"Conv2d_{i}_depthwise", "depthwise_weights", 3, 3, before, 1)
        layer(f"Conv2d_{i}_pointwise", "weights", 1, 1, before, after)
    for i, (inputs, half, depth) in enumerate(EXTRAS, start=2):
        layer(f"Conv2d_13_pointwise_1_Conv2d_{i}_1x1_{half}", "weights", 1, 1, inputs, half)
        layer(f"Conv2d_13_pointwise_2_Conv2d_{i}_3x3_s2_{depth}", "weights", 3, 3, half, depth)
    for i, depth in enumerate(MAPS):
        anchors = 3 if i == 0 else 6
        for name, columns in (("BoxEncodingPredictor", 4), ("ClassPredictor", classes + 1)):
            variables[f"BoxPredictor_{i}/{name}/weights"] = rng.normal(0, 0.05, (1, 1, depth, anchors * columns))
            variables[f"BoxPredictor_{i}/{name}/biases"] = rng.normal(0, 0.1, anchors * columns)
    variables = {name: array.astype(np.float32) for name, array in variables.items()}
    np.savez(path, **variables)
    return variables


def test_the_zoos_ssd_computes_the_same(tmp_path: Path) -> None:
    """The last extra map and the first and last predictors, against TensorFlow's arithmetic written out in numpy."""
    variables = zoo_file(tmp_path / "ssd.npz")
    model = torch.nn.Module()
    model.model = SSD(MobileNetV1(strides=SSD.strides), 4, 160).eval()
    load_matching_weights(model, read_tf_zoo(tmp_path / "ssd.npz"), "ssd.npz")
    maps: list[torch.Tensor] = []
    model.model.neck.register_forward_hook(lambda _module, _inputs, outputs: maps.extend(outputs))
    with torch.no_grad():
        deltas, logits = model.model(torch.randn(1, 3, 160, 160))

    def norm(x: np.ndarray, layer: str) -> np.ndarray:
        gamma, beta, mean, variance = (
            variables[f"{layer}/BatchNorm/{key}"] for key in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return np.clip((x - mean) / np.sqrt(variance + 1e-3) * gamma + beta, 0, 6)

    prefix = "FeatureExtractor/MobilenetV1/Conv2d_13_pointwise"
    x = maps[1][0].permute(1, 2, 0).numpy()  # 5 x 5
    for i, (_, half, depth) in enumerate(EXTRAS, start=2):
        layer = f"{prefix}_1_Conv2d_{i}_1x1_{half}"
        x = norm(x @ variables[f"{layer}/weights"][0, 0], layer)
        layer = f"{prefix}_2_Conv2d_{i}_3x3_s2_{depth}"
        x = norm(np.einsum("hwcij,ijco->hwo", patches(x, 2), variables[f"{layer}/weights"]), layer)
        np.testing.assert_allclose(maps[i][0].permute(1, 2, 0).numpy(), x, atol=1e-3)
    first = maps[0][0].permute(1, 2, 0).numpy()
    for row, (i, source) in {0: (0, first), -1: (5, x)}.items():
        boxes, classes = (
            source @ variables[f"BoxPredictor_{i}/{name}/weights"][0, 0] + variables[f"BoxPredictor_{i}/{name}/biases"]
            for name in ("BoxEncodingPredictor", "ClassPredictor")
        )
        y, x_, height, width = boxes.reshape(-1, 4)[row]
        np.testing.assert_allclose(deltas[0, row].numpy(), [x_, y, width, height], atol=1e-3)
        np.testing.assert_allclose(logits[0, row].numpy(), classes.reshape(-1, 5)[row], atol=1e-3)


def test_what_does_not_fit_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    zoo_file(tmp_path / "ssd.npz", classes=90)
    model = torch.nn.Module()
    model.model = SSD(MobileNetV1(strides=SSD.strides), 4, 160)
    with caplog.at_level(logging.WARNING):
        load_matching_weights(model, read_tf_zoo(tmp_path / "ssd.npz"), "ssd.npz")
    assert "ckpt=ssd.npz: 12 tensors do not fit and start fresh" in caplog.text
    assert "model.class_head.predictors.0.bias, (15,) here and (273,) there" in caplog.text
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    (tmp_path / "torn.npz").write_bytes((tmp_path / "ssd.npz").read_bytes()[:1000])
    for name, words in (("other", "no variables of an ssd_mobilenet_v1"), ("torn", "cannot be read")):
        with pytest.raises(UserError, match=words):
            read_tf_zoo(tmp_path / f"{name}.npz")


def test_another_number_of_classes_keeps_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    old, new = (SSD(MobileNetV1(0.25, strides=SSD.strides), n, 160) for n in (3, 5))
    with caplog.at_level(logging.WARNING):
        load_matching_weights(new, old.state_dict(), "old")
    fresh = {name for name, tensor in new.state_dict().items() if not torch.equal(tensor, old.state_dict()[name])}
    assert fresh == {f"class_head.predictors.{i}.{kind}" for i in range(6) for kind in ("weight", "bias")}
    assert all(name in caplog.text for name in fresh)
