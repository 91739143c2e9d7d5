"""Heads: from maps (B, C, H, W) to rows of one anchor or point each, (B, A, columns)."""

from collections.abc import Sequence
from math import log

import torch
from torch import Tensor, nn

from backbones.base import Foldable
from backbones.mobilenet_v1 import ConvNormAct

PRIOR = log(0.01 / 0.99)  # RetinaNet, section 4.1: so that background does not dominate the first steps


def per_anchor(x: Tensor, columns: int) -> Tensor:
    """(B, anchors * columns, H, W) to (B, H * W * anchors, columns); without a copy in channels_last."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, columns)  # len() would make an export's batch size constant


def predictor(inputs: int, outputs: int, kernel: int = 1, bias: float = 0.0) -> nn.Conv2d:
    """A last layer, whose outputs are initially near `bias`."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    nn.init.normal_(layer.weight, std=0.01)
    assert layer.bias is not None
    nn.init.constant_(layer.bias, bias)
    return layer


class MapHeads(nn.Module):
    """A separate predictor for each map: 1 x 1, or depthwise 3 x 3 and 1 x 1 (SSDLite)."""

    def __init__(self, channels: Sequence[int], anchors: Sequence[int], columns: int, depthwise: bool) -> None:
        super().__init__()
        self.columns = columns
        self.predictors = nn.ModuleList()
        for c, count in zip(channels, anchors, strict=True):
            last = predictor(c, count * columns)
            self.predictors.append(nn.Sequential(ConvNormAct(c, c, 3, groups=c), last) if depthwise else last)

    def last_layers(self) -> list[nn.Module]:
        return [p[-1] if isinstance(p, nn.Sequential) else p for p in self.predictors]

    def forward(self, maps: list[Tensor]) -> Tensor:
        rows = [per_anchor(p(x), self.columns) for p, x in zip(self.predictors, maps, strict=True)]
        return torch.cat(rows, dim=1)


class Affine(nn.Module):
    """A batch normalization at inference, as plain arithmetic: exporters would fold a BatchNorm2d into the convolution
    before it, and into a shared convolution once for each map.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_var is not None
        assert norm.running_mean is not None
        scale = norm.weight.data / (norm.running_var + norm.eps).sqrt()
        self.scale = nn.Parameter(scale[:, None, None])
        self.shift = nn.Parameter((norm.bias.data - norm.running_mean * scale)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class SharedTower(Foldable, nn.Module):
    """One tower of 3 x 3 convolutions for all maps, with separate normalization for each map (as in TF's FPN)."""

    def __init__(self, depth: int, layers: int, maps: int, anchors: int, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.convs = nn.ModuleList(nn.Conv2d(depth, depth, 3, padding=1, bias=False) for _ in range(layers))
        self.norms = nn.ModuleList(nn.BatchNorm2d(depth, eps=1e-3) for _ in range(maps * layers))
        self.last = predictor(depth, anchors * columns, 3)
        self.act = nn.ReLU6(inplace=True)

    def last_layers(self) -> list[nn.Module]:
        return [self.last]

    def fold(self) -> None:
        """For inference only."""
        self.norms = nn.ModuleList(Affine(n) if isinstance(n, nn.BatchNorm2d) else n for n in self.norms)

    def forward(self, maps: list[Tensor]) -> Tensor:
        rows = []
        norms = iter(self.norms)
        for x in maps:
            for conv in self.convs:
                x = self.act(next(norms)(conv(x)))
            rows.append(per_anchor(self.last(x), self.columns))
        return torch.cat(rows, dim=1)
