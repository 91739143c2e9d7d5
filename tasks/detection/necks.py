"""Between backbone and heads: the maps that a detector predicts from, finest first."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.mobilenet_v1 import ConvNormAct, scaled_depth

EXTRA_DEPTHS = (512, 256, 256, 128)  # TF Object Detection API, ssd_mobilenet_v1


def separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A depthwise 3 x 3 and a pointwise convolution, each normalized."""
    return nn.Sequential(ConvNormAct(inputs, inputs, 3, stride, groups=inputs), ConvNormAct(inputs, outputs))


class Extras(nn.Module):
    """SSD's additional maps, each half as large as the last: 1 x 1 to half the depth, then 3 x 3 at stride 2."""

    def __init__(self, channels: Sequence[int], width: float, depthwise: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        self.channels = list(channels)
        for depth in EXTRA_DEPTHS:
            half, full = (scaled_depth(d, width, minimum=16) for d in (depth // 2, depth))
            reduce = ConvNormAct(self.channels[-1], half)
            halve = separable(half, full, 2) if depthwise else ConvNormAct(half, full, 3, 2)
            self.blocks.append(nn.Sequential(reduce, halve))
            self.channels.append(full)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = list(maps)
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps


class FPN(nn.Module):
    """Feature pyramid (Lin et al. 2017) in TF's form: top-down sums, 3 x 3 smoothing, two coarser maps."""

    def __init__(self, channels: Sequence[int], depth: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, depth, 1) for c in channels)
        self.smooth = nn.ModuleList(ConvNormAct(depth, depth, 3) for _ in channels[:-1])
        self.coarser = nn.ModuleList(ConvNormAct(depth, depth, 3, 2) for _ in range(2))
        self.channels = [depth] * (len(channels) + 2)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        laterals = [layer(x) for layer, x in zip(self.lateral, maps, strict=True)]
        results = [laterals[-1]]
        for lateral in laterals[-2::-1]:
            results.insert(0, lateral + F.interpolate(results[0], size=lateral.shape[-2:]))
        results[:-1] = [layer(x) for layer, x in zip(self.smooth, results, strict=False)]
        for layer in self.coarser:
            results.append(layer(results[-1]))
        return results


class PathAggregation(nn.Module):
    """Top-down and bottom-up paths of separable convolutions (PANet, Liu et al. 2018, in PicoDet's light form), and
    one coarser map.
    """

    def __init__(self, channels: Sequence[int], depth: int) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(ConvNormAct(c, depth) for c in channels)
        joins = len(channels) - 1
        self.down = nn.ModuleList(separable(2 * depth, depth) for _ in range(joins))
        self.halve = nn.ModuleList(separable(depth, depth, 2) for _ in range(joins))
        self.up = nn.ModuleList(separable(2 * depth, depth) for _ in range(joins))
        self.coarser = separable(depth, depth, 2)
        self.channels = [depth] * (len(channels) + 1)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [layer(x) for layer, x in zip(self.reduce, maps, strict=True)]
        fused = [maps[-1]]  # finest first
        for x, join in zip(maps[-2::-1], self.down, strict=True):
            larger = F.interpolate(fused[0], size=x.shape[-2:])
            fused.insert(0, join(torch.cat([x, larger], dim=1)))
        results = [fused[0]]
        for x, halve, join in zip(fused[1:], self.halve, self.up, strict=True):
            # (without padding, a map is not exactly half as large as the one before)
            smaller = F.interpolate(halve(results[-1]), size=x.shape[-2:])
            results.append(join(torch.cat([smaller, x], dim=1)))
        results.append(self.coarser(results[-1]))
        return results
