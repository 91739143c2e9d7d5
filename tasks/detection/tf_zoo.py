"""Weights of the TensorFlow detection zoo's ssd_mobilenet_v1 models, given as an .npz of their variables."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backbones.errors import UserError
from backbones.mobilenet_v1 import BLOCKS

BACKBONE = "FeatureExtractor/MobilenetV1/"
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
XYWH = (1, 0, 3, 2)  # TF's box code is (y, x, height, width)


def layers() -> Iterator[tuple[str, str]]:
    """(pattern of TF's layer, our layer) of every convolution with normalization."""
    yield "Conv2d_0", "backbone.blocks.0"
    last = len(BLOCKS)
    for i in range(1, last + 1):
        yield f"Conv2d_{i}_depthwise", f"backbone.blocks.{i}.0"
        yield f"Conv2d_{i}_pointwise", f"backbone.blocks.{i}.1"
    for i in range(4):  # the names end in the layer's depth
        yield rf"Conv2d_{last}_pointwise_1_Conv2d_{i + 2}_1x1_\d+", f"neck.blocks.{i}.0"
        yield rf"Conv2d_{last}_pointwise_2_Conv2d_{i + 2}_3x3_s2_\d+", f"neck.blocks.{i}.1"


def read_tf_zoo(path: Path) -> dict[str, Tensor]:
    """The file's tensors under the names of our SSD, as a task's state dict has them.

    Raises:
        UserError: it cannot be read, or holds no such variables.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            variables = {name.removesuffix(":0"): file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"ckpt={path} cannot be read: {error}") from error
    state: dict[str, Tensor] = {}
    for pattern, ours in layers():
        match = re.compile(f"{BACKBONE}{pattern}/(.+)")
        for name, array in variables.items():
            if found := match.fullmatch(name):
                state |= _layer(ours, found[1], torch.from_numpy(array))
    for i in range(6):
        for theirs, ours in (("BoxEncodingPredictor", "box_head"), ("ClassPredictor", "class_head")):
            for kind in ("weights", "biases"):
                array = variables.get(f"BoxPredictor_{i}/{theirs}/{kind}")
                if array is not None:
                    tensor = torch.from_numpy(array)
                    if ours == "box_head":
                        tensor = tensor.unflatten(-1, (-1, 4))[..., XYWH].flatten(-2)
                    tensor = tensor.permute(3, 2, 0, 1) if kind == "weights" else tensor
                    state[f"model.{ours}.predictors.{i}.{'weight' if kind == 'weights' else 'bias'}"] = tensor
    if not state:
        raise UserError(f"ckpt={path} has no variables of an ssd_mobilenet_v1, such as {BACKBONE}Conv2d_0/weights")
    return state


def _layer(ours: str, variable: str, tensor: Tensor) -> dict[str, Tensor]:
    """A convolution's kernel (HWIO; HWC1 where depthwise) or one of its normalization's vectors."""
    if variable == "depthwise_weights":
        return {f"model.{ours}.conv.weight": tensor.permute(2, 3, 0, 1)}
    if variable == "weights":
        return {f"model.{ours}.conv.weight": tensor.permute(3, 2, 0, 1)}
    key = NORM.get(variable.removeprefix("BatchNorm/"))
    return {f"model.{ours}.norm.{key}": tensor} if key else {}  # others are the optimizer's
