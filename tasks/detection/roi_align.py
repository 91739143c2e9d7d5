"""RoIAlign (He et al. 2017, arXiv 1703.06870) as two matrix products.

Bilinear sampling is a weighted sum over rows and then over columns, so that all crops of an image are one dense product
and a batch of small ones, which run at the processor's full speed, as do the products of their gradients. torchvision's
kernel adds its gradient pixel by pixel on one thread: that alone takes half of a training step (BENCHMARKS.md).
"""

import torch
from torch import Tensor

SAMPLES = 2  # per axis of a cell


def roi_align(maps: Tensor, boxes_BP4: Tensor, size: int, scale: float) -> Tensor:
    """Crops (B * P, C, size, size), in channels_last, of maps (B, C, H, W) at xyxy boxes, which `scale` converts to map
    pixels: torchvision.ops.roi_align with two samples per axis, in the maps' precision.
    """
    channels, height, width = maps.shape[1:]
    left, top, right, bottom = (boxes_BP4 * scale).unbind(dim=-1)
    rows = _weights(top, bottom, size, height).to(maps.dtype).flatten(1, 2)  # (B, P * size, H)
    columns = _weights(left, right, size, width).to(maps.dtype).flatten(0, 1)  # (B * P, size, W)
    maps = maps.permute(0, 2, 3, 1)
    stripes = (rows @ maps.flatten(2)).reshape(-1, size, width, channels)  # (B * P, size, W, C)
    return (columns[:, None] @ stripes).permute(0, 3, 1, 2)


def _weights(low: Tensor, high: Tensor, size: int, pixels: int) -> Tensor:
    """The weight (..., size, pixels) of each pixel along an axis in each of `size` cells from `low` to `high`."""
    steps = (torch.arange(SAMPLES * size, device=low.device) + 0.5) / (SAMPLES * size)
    at = low[..., None] + (high - low).clamp(min=1)[..., None] * steps
    inside = (at >= -1) & (at <= pixels)
    apart = (at.clamp(0, pixels - 1)[..., None] - torch.arange(pixels, device=low.device)).abs()
    weights = (1 - apart).clamp(min=0) * inside[..., None]
    return weights.unflatten(-2, (size, SAMPLES)).mean(dim=-2)
