"""Ties the backbones of several tasks to one set of weights, except for the layers that each task has for itself.

A task's own batch normalization, optionally also depthwise kernels, patch the common layers (Mudrakarta et al.
2018, arXiv 1810.10703; Bilen and Vedaldi 2017, arXiv 1701.07275).
"""

from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from backbones.base import Backbone, is_depthwise

Share = Literal["all", "norm", "depthwise"]
NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)


def is_own(layer: nn.Module, share: Share) -> bool:
    """Whether each task has its own copy of a layer."""
    if isinstance(layer, nn.Conv2d):
        return share == "depthwise" and is_depthwise(layer)
    return share != "all" and isinstance(layer, NORMS)


class Sharing:
    """Takes the backbones one by one. The first one's layers are those that the others share."""

    def __init__(self) -> None:
        self.layers: dict[str, nn.Module] = {}
        self.first: Backbone | None = None

    def join(self, backbone: Backbone, share: Share) -> Backbone:
        """The backbone with its layers replaced by the first one's, except those that `share` keeps for each task: they
        start as copies of the first one's.
        """
        if self.first is None:
            # stored by name now, as a detector may move blocks elsewhere
            self.first, self.layers = backbone, dict(backbone.named_modules())
            return backbone
        self._tie(backbone, "", share)
        backbone.normalization, backbone.classifier = self.first.normalization, self.first.classifier
        return backbone

    def _tie(self, module: nn.Module, place: str, share: Share) -> None:
        for name, child in list(module.named_children()):
            other = self.layers.get(f"{place}{name}")
            if other is None or not _alike(child, other):
                continue
            if isinstance(child, nn.ModuleList) or any(is_own(layer, share) for layer in child.modules()):
                if is_own(child, share):
                    child.load_state_dict(other.state_dict())
                self._tie(child, f"{place}{name}.", share)
            else:
                setattr(module, name, other)
        here = self.layers[place.rstrip(".")]
        if not is_own(module, share):
            module._parameters.update({name: here._parameters[name] for name in module._parameters})


def _alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules have the same type and tensor shapes; one list of blocks may be longer than the other."""
    if isinstance(one, nn.ModuleList):
        return type(one) is type(other)
    shapes = [{name: tensor.shape for name, tensor in m.state_dict().items()} for m in (one, other)]
    return type(one) is type(other) and shapes[0] == shapes[1]
