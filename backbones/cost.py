"""Multiply-adds and parameters, counted from the shapes of a forward pass without data."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from backbones.base import is_depthwise
from backbones.shapes import dummy_image, shapes_only


@dataclass
class Cost:
    """Totals of a network, and per layer type the [multiply-adds, parameters] that make them up.

    As in the MobileNets paper, multiply-adds are those of convolutions and fully connected layers; parameters
    include biases and normalization's gamma and beta, but not its running statistics.
    """

    madds: int = 0
    params: int = 0
    layers: dict[str, list[int]] = field(default_factory=dict)

    @property
    def millions(self) -> dict[str, float]:
        """As metrics.json and model.json have it."""
        return {"madds_m": self.madds / 1e6, "params_m": self.params / 1e6}

    def add(self, kind: str, madds: int, params: int) -> None:
        row = self.layers.setdefault(kind, [0, 0])
        row[0] += madds
        row[1] += params
        self.madds += madds
        self.params += params


def layer_type(module: nn.Module) -> str:
    """The row of the paper's Table 2 that a layer belongs to."""
    if isinstance(module, nn.Linear):
        return "fully connected"
    if is_depthwise(module):
        return "depthwise"
    if isinstance(module, nn.Conv2d):
        return "pointwise" if module.kernel_size == (1, 1) else "convolution"
    return "normalization and other"


@contextmanager
def counting(model: nn.Module) -> Iterator[Cost]:
    """Adds to the yielded Cost the multiply-adds of every layer of `model` that runs inside the block."""
    cost = Cost()

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        # Each output element costs as many multiply-adds as one filter has weights.
        cost.add(layer_type(module), output.numel() * weight[0].numel(), 0)

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        yield cost
    finally:
        for hook in hooks:
            hook.remove()


def measure_cost(model: nn.Module, resolution: int, run: Callable[[Tensor], Any] | None = None) -> Cost:
    """Cost of one forward pass of `model` on one image of resolution x resolution pixels.

    Only the shapes of the pass are computed. `run` is the pass, if it is not `model` itself.
    """
    with counting(model) as cost, shapes_only(model):
        (run or model)(dummy_image(model, resolution))
    for module in model.modules():
        params = sum(p.numel() for p in module.parameters(recurse=False))
        if params:
            cost.add(layer_type(module), 0, params)
    return cost
