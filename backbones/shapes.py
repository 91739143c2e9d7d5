"""Forward passes for their shapes only, without torch's meta device, whose first convolution imports sympy and
torch._dynamo, which takes longer than importing torch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

IntOrPair = int | tuple[int, int]
# shape-preserving operations, skipped
ELEMENTWISE = {torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, torch.batch_norm, F.batch_norm, F.hardtanh, F.relu6}
ELEMENTWISE |= {torch._C._nn.hardtanh, torch._C._nn.hardtanh_}
# functions that initialise a new layer's weights
FILLING = {nn.init.kaiming_uniform_, nn.init.kaiming_normal_, nn.init.uniform_, nn.init.normal_, Tensor.normal_}


class SkipInit(TorchFunctionMode):
    """Within it, new weights are not initialised: for networks that are only counted, never run."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return (args[0] if args else kwargs["tensor"]) if func in FILLING else func(*args, **kwargs)


class _ShapesOnly(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d:
            return _convolved(*args, **(kwargs or {}))
        if func is F.linear:
            return args[0].new_empty(*args[0].shape[:-1], args[1].shape[0])
        if func in ELEMENTWISE:
            return args[0]
        return func(*args, **(kwargs or {}))


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair | str = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> Tensor:
    sides = []
    for axis in (0, 1):
        side, kernel, step, apart = x.shape[2 + axis], weight.shape[2 + axis], _at(stride, axis), _at(dilation, axis)
        reach = apart * (kernel - 1)
        around = {"same": reach, "valid": 0}[padding] if isinstance(padding, str) else 2 * _at(padding, axis)
        sides.append((side + around - reach - 1) // step + 1)
    return x.new_empty(x.shape[0], weight.shape[0], *sides)


def _at(value: IntOrPair, axis: int) -> int:
    return value if isinstance(value, int) else value[axis % len(value)]


@contextmanager
def shapes_only(model: nn.Module) -> Iterator[None]:
    """Within it, `model` is in eval mode, and its convolutions, fully connected layers, normalization and the usual
    activations return tensors of the right shapes with undefined values; everything else is computed. Afterwards the
    model is as before.
    """
    before = [(module, module.training, module._compiled_call_impl) for module in model.modules()]
    model.eval()
    for module, _, _ in before:
        module._compiled_call_impl = None
    try:
        with torch.no_grad(), _ShapesOnly():
            yield
    finally:
        for module, training, compiled in before:
            module.training, module._compiled_call_impl = training, compiled


def dummy_image(model: nn.Module, resolution: int) -> Tensor:
    """An image (1, 3, resolution, resolution) of zeros on the model's device."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return torch.zeros(1, 3, resolution, resolution, device="cpu" if device.type == "meta" else device)
