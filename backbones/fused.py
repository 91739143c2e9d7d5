"""A convolution with its ReLU or ReLU6 in one pass over memory: inference in bfloat16 on CPUs.

oneDNN clips what it has just computed at no extra cost; as a separate operation, ReLU6 takes a third of a MobileNet's
time. In float32, whose products take longer, nothing is gained (BENCHMARKS.md).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from backbones.depthwise import Pair

CLIPS: dict[type[nn.Module], tuple[str, list[float]]] = {nn.ReLU: ("relu", []), nn.ReLU6: ("hardtanh", [0.0, 6.0])}


def is_eager_cpu(x: Tensor) -> bool:
    """Whether operations on x run eagerly on the CPU, rather than being traced for a compiler or an export."""
    return x.device.type == "cpu" and not (torch.compiler.is_compiling() or torch.jit.is_tracing())


def can_fuse(x: Tensor, layers: Iterable[nn.Module]) -> bool:
    """Whether `convolve_and_clip` can replace calling `layers`, the last of which is the activation. It calls no
    hooks, and its operation, which torch.compile also uses, requires oneDNN and a processor with bfloat16.
    """
    *_, act = layers
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    if dtype != torch.bfloat16 or type(act) not in CLIPS or not is_eager_cpu(x) or not len(x):
        return False
    hooked = any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)
    return not hooked and torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def convolve_and_clip(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, groups: int, act: nn.Module
) -> Tensor:
    """act(conv2d(x (B, C, H, W), weight, bias, stride, padding, 1, groups)), in bfloat16."""
    x, weight = x.bfloat16(), weight.bfloat16()
    name, limits = CLIPS[type(act)]
    found: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, weight, None if bias is None else bias.bfloat16(), padding, stride, (1, 1), groups, name, limits, ""
    )
    return found
