"""A convolution with its ReLU or ReLU6 in one pass over memory, on processors, for inference.

oneDNN clips what it has just computed for nothing; as an operation of its own, ReLU6 takes as long as most of the
convolutions of a MobileNet in bfloat16 (BENCHMARKS.md).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from backbones.depthwise import Pair

CLIPS: dict[type[nn.Module], tuple[str, list[float]]] = {nn.ReLU: ("relu", []), nn.ReLU6: ("hardtanh", [0.0, 6.0])}


def is_eager_cpu(x: Tensor) -> bool:
    """Whether x is computed with at once, by a processor, rather than traced for a compiler or an export."""
    return x.device.type == "cpu" and not (torch.compiler.is_compiling() or torch.jit.is_tracing())


def can_fuse(x: Tensor, layers: Iterable[nn.Module]) -> bool:
    """Whether `convolve_and_clip` can stand for calling `layers`, of which the last is the activation: it calls no
    hooks, and this torch must have the operation that torch.compile takes for it.
    """
    *_, act = layers
    available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    hooked = any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)
    dtypes = (torch.float32, torch.bfloat16)
    return available and type(act) in CLIPS and x.dtype in dtypes and is_eager_cpu(x) and not hooked


def convolve_and_clip(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, groups: int, act: nn.Module
) -> Tensor:
    """act(conv2d(x (B, C, H, W), weight, bias, stride, padding, 1, groups)), in autocast's precision where it is on."""
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    name, limits = CLIPS[type(act)]
    found: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, padding, stride, (1, 1), groups, name, limits, ""
    )
    return found
