"""The contract between a backbone and the tasks on top of it."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard

from torch import Tensor, nn

from backbones.shapes import dummy_image, shapes_only


class Normalization(NamedTuple):
    """Per-channel mean and standard deviation of RGB in 0..1 that a network's weights expect."""

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @classmethod
    def of(cls, rows: Sequence[Sequence[float]]) -> "Normalization":
        """From two rows of three plain numbers.

        Raises:
            TypeError, ValueError: they are anything else or not finite, or a deviation is not positive.
        """
        try:
            (r, g, b), (std_r, std_g, std_b) = ([float(v) for v in row] for row in rows)
        except OverflowError as error:  # an integer of hundreds of digits
            raise ValueError(f"not a normalization: {error}") from error
        if not all(map(math.isfinite, (r, g, b, std_r, std_g, std_b))) or min(std_r, std_g, std_b) <= 0:
            raise ValueError(f"not a normalization: {rows}")
        return cls((r, g, b), (std_r, std_g, std_b))


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Foldable:
    """A module whose normalization can become part of its convolutions."""

    def fold(self) -> None:
        """Folds in place; inference only afterwards."""
        raise NotImplementedError("a foldable module defines fold")


class Backbone(nn.Module):
    """A feature extractor that describes itself, so that tasks need no channel counts.

    `channels[i]` and `strides[i]` belong to the i-th map that `forward` returns, finest first. `resolved`: values
    chosen for settings left null, e.g. padding to match the weights; they rebuild the network without the weights file.
    `width` is the width multiplier, which scales the layers of tasks too.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    normalization: Normalization
    width: float = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.resolved: dict[str, Any] = {}
        self.classifier: dict[str, Tensor] = {}  # weight and bias of the one in the weights file, if any

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) to feature maps (B, channels[i], H / strides[i], W / strides[i])."""
        raise NotImplementedError("a backbone defines forward")

    def early_layers(self) -> Sequence[nn.Module]:
        """The layers up to stride 4, which detect edges and colours, alike in all photographs; empty if the backbone
        does not define them.
        """
        return ()

    def sizes(self, resolution: int) -> list[int]:
        """Sides of the maps of a resolution x resolution image; without padding they may not be resolution / stride."""
        with shapes_only(self):
            return [x.shape[-1] for x in self(dummy_image(self, resolution))]


def scaled_resolution(base: int, rho: float) -> int:
    """Input side in pixels for resolution multiplier rho (MobileNets, section 3.4): a multiple of 32.

    rho = 1 keeps the task's own base, which may be any number (SSD uses 300).
    """
    return base if rho == 1 else max(32, round(base * rho / 32) * 32)


def tapped_outputs(layers: nn.ModuleList, taps: Sequence[int], images: Tensor) -> list[Tensor]:
    """Outputs of the layers with the indices `taps`, in increasing order; layers after the last of them do not run."""
    x, maps = images, []
    for i, layer in enumerate(layers[: taps[-1] + 1]):
        x = layer(x)
        if i in taps:
            maps.append(x)
    return maps


def is_depthwise(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether each filter sees only one of several input channels."""
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels


def no_decay_parameters(module: nn.Module) -> set[nn.Parameter]:
    """Parameters to leave out of weight decay: depthwise kernels, normalization and biases.

    MobileNets, section 3.2: depthwise filters hold so few parameters that decay harms them.
    """
    depthwise = {p for m in module.modules() if is_depthwise(m) for p in m.parameters()}
    return depthwise | {p for p in module.parameters() if p.ndim < 2}
