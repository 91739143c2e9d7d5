"""Depthwise 3 x 3 convolution at stride 2, several times faster on CPUs than torch's own.

oneDNN (through torch 2.14) has no fast bfloat16 kernel for its input gradient: at 16 x 64 x 150 x 150 that
one call takes 47 ms of a training step, the code below a quarter of that (BENCHMARKS.md).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Pair = tuple[int, int]


class StridedDepthwise(torch.autograd.Function):
    """apply(x (B, C, H, W), weight (C, 1, 3, 3), bias (C,) or None, before): `before` is the zero padding, 0 or 1,
    above and left of x; below and to the right it is one row and column if the kernel reaches them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, before: Pair) -> Tensor:
        ctx.before, ctx.shape = before, x.shape
        x = pad_after(x, 1 - before[0], 1 - before[1])
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, 2, before, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _input_gradient(grad, weight, ctx.shape, ctx.before)
        if ctx.needs_input_grad[1]:
            _, grad_weight, _ = torch.ops.aten.convolution_backward(
                grad,
                x,
                weight,
                None,
                [2, 2],
                ctx.before,
                [1, 1],
                False,
                [0, 0],
                len(weight),
                [False, True, False],
            )
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(dim=(0, 2, 3))
        return grad_x, grad_weight, grad_bias, None


def pad_after(x: Tensor, bottom: int, right: int) -> Tensor:
    """x with rows and columns of zeros appended; F.pad would write the whole result twice."""
    if not (bottom or right):
        return x
    batch, channels, height, width = x.shape
    shape = (batch, channels, height + bottom, width + right)
    padded = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
    padded[:, :, :height, :width] = x
    padded[:, :, height:] = 0
    padded[:, :, :, width:] = 0
    return padded


def _input_gradient(grad: Tensor, weight: Tensor, shape: torch.Size, before: Pair) -> Tensor:
    """Pixels at even and odd padded coordinates are multiplied by different weights of the kernel: four depthwise
    convolutions of the gradient at stride 1, whose results interleave.
    """
    grad_x = torch.empty(shape, dtype=grad.dtype, memory_format=torch.channels_last)
    taps = ([2, 0], [1])  # by parity; padded coordinate 2t contributes to output t by weight 0 and to t - 1 by weight 2
    for row, rows in enumerate(taps):
        for column, columns in enumerate(taps):
            kernel = weight[:, :, rows][:, :, :, columns]
            part = F.conv2d(grad, kernel, None, 1, (1 - row, 1 - column), 1, len(weight))
            # coordinate of x = padded coordinate - before; the padding's own gradient is dropped
            (y0, y_skip), (x0, x_skip) = (_first(parity, b) for parity, b in zip((row, column), before, strict=True))
            target = grad_x[:, :, y0::2, x0::2]
            target.copy_(part[:, :, y_skip:, x_skip:][:, :, : target.shape[2], : target.shape[3]])
    return grad_x


def _first(parity: int, before: int) -> Pair:
    """For a parity of padded coordinates: the first one inside x, as its coordinate there, and how many precede it."""
    skipped = 1 if parity < before else 0
    return parity + 2 * skipped - before, skipped
