"""Classifiers of the paper's time from torchvision: AlexNet, SqueezeNet, GoogLeNet, VGG16."""

from collections.abc import Sequence
from math import log2
from pathlib import Path
from typing import Any, Literal

import torchvision.models as models
from torch import Tensor, nn

from backbones.base import IMAGENET, Backbone, Normalization, tapped_outputs
from backbones.errors import UserError, first_line
from backbones.mobilenet_v1 import ConvNormAct
from backbones.shapes import dummy_image, shapes_only
from backbones.weights import read_tensors

HEADS = ("avgpool", "aux1", "aux2", "dropout", "fc")  # GoogLeNet's children that are not part of its features


class TorchvisionBackbone(Backbone):
    """A model's layers in sequence, whose maps are the outputs of the last layer of each stride.

    A stride beyond the model's last (SqueezeNet ends at 16) is reached by a new 3 x 3 convolution at stride 2.
    """

    def __init__(self, model: nn.Module, strides: Sequence[int]) -> None:
        super().__init__()
        children = getattr(model, "features", model).named_children()
        self.stages = nn.ModuleList(child for name, child in children if name not in HEADS)
        reached, channels = self._measure()
        while max(strides) > reached[-1]:
            self.stages.append(ConvNormAct(channels[-1], channels[-1], 3, 2))
            reached, channels = self._measure()
        last = {stride: i for i, stride in enumerate(reached)}
        if missing := [s for s in strides if s not in last]:
            raise ValueError(f"there is no map at stride {missing[0]}, only at {sorted(last)}")
        self.strides = tuple(strides)
        self.taps = tuple(last[s] for s in strides)
        self.channels = tuple(channels[i] for i in self.taps)
        self.normalization = IMAGENET

    def _measure(self) -> tuple[list[int], list[int]]:
        """Stride, as the nearest power of two, and channels after each stage."""
        x, strides, channels = dummy_image(self, 256), [], []
        with shapes_only(self):
            for stage in self.stages:
                x = stage(x)
                strides.append(2 ** round(log2(256 / x.shape[-1])))
                channels.append(x.shape[1])
        return strides, channels

    def forward(self, images: Tensor) -> list[Tensor]:
        return tapped_outputs(self.stages, self.taps, images)


def build_torchvision(
    *,
    name: Literal["alexnet", "squeezenet1_1", "googlenet", "vgg16"],
    weights: str | None = None,
    pretrained: bool = False,
    strides: Sequence[int] = (32,),
    resolution: int = 224,
) -> TorchvisionBackbone:
    """The named model; `weights` is a state dict of torchvision's, `pretrained` fetches torchvision's default.

    Raises:
        UserError: the weights cannot be obtained, or do not fit.
    """
    settings: dict[str, Any] = {"init_weights": False} if name == "googlenet" else {}
    try:
        model = models.get_model(name, weights="DEFAULT" if pretrained else None, **({} if pretrained else settings))
    except (OSError, RuntimeError) as error:
        raise UserError(f"backbone.name={name}: {first_line(error)}") from error
    if weights:
        try:
            model.load_state_dict(read_tensors(Path(weights)))
        except (RuntimeError, TypeError) as error:
            raise UserError(f"backbone.weights: {weights} does not fit torchvision's {name}") from error
    backbone = TorchvisionBackbone(model, strides)
    if name == "googlenet" and (weights or pretrained):  # what its forward makes of ImageNet's (transform_input)
        backbone.normalization = Normalization()
    return backbone
