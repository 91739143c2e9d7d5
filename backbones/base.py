"""The contract between a backbone and the tasks that stand on it."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from backbones.shapes import blank, shapes_only


class Normalization(NamedTuple):
    """Per-channel mean and standard deviation of RGB in 0..1 that a network's weights expect."""

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @classmethod
    def of(cls, rows: Sequence[Sequence[float]]) -> "Normalization":
        """From two rows of three plain numbers.

        Raises:
            TypeError, ValueError: they are anything else, not finite, or a deviation is not positive.
        """
        try:
            (r, g, b), (std_r, std_g, std_b) = ([float(v) for v in row] for row in rows)
        except OverflowError as error:  # an integer of hundreds of digits
            raise ValueError(f"no normalization: {error}") from error
        if not all(map(math.isfinite, (r, g, b, std_r, std_g, std_b))) or min(std_r, std_g, std_b) <= 0:
            raise ValueError(f"no normalization: {rows}")
        return cls((r, g, b), (std_r, std_g, std_b))


class Foldable:
    """A module whose normalization can become part of its convolutions."""

    def fold(self) -> None:
        """In place; the module can only infer from then on."""
        raise NotImplementedError("a foldable module defines fold")


class Backbone(nn.Module):
    """A feature extractor that describes itself, so that no task writes down a channel count.

    `channels[i]` and `strides[i]` belong to the i-th map that `forward` returns, finest first. `settled` holds plain
    values of the builder's settings that were null and that it chose, as weights need them: with these it makes the
    same network again without the weights. Layers on top of it are scaled by its width multiplier `width` too.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    normalization: Normalization
    width: float = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.settled: dict[str, Any] = {}
        self.classifier: dict[str, Tensor] = {}  # weight and bias of one that came with the weights

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) to feature maps (B, channels[i], H / strides[i], W / strides[i])."""
        raise NotImplementedError("a backbone defines forward")

    def early_layers(self) -> Sequence[nn.Module]:
        """The layers up to stride 4, which see edges and colours alike in all photographs; none where they are not told
        apart.
        """
        return ()

    def sizes(self, resolution: int) -> list[int]:
        """Sides of the maps of a resolution x resolution image; a network without padding gives odd ones."""
        with shapes_only(self):
            return [x.shape[-1] for x in self(blank(self, resolution))]


def scaled_resolution(base: int, rho: float) -> int:
    """Input side in pixels for resolution multiplier rho (MobileNets, section 3.4): a multiple of 32.

    rho = 1 keeps the task's own base, which need not be such a multiple (SSD uses 300).
    """
    return base if rho == 1 else max(32, round(base * rho / 32) * 32)


def no_decay_parameters(module: nn.Module) -> set[nn.Parameter]:
    """Parameters to leave out of weight decay: depthwise kernels, normalization and biases.

    MobileNets, section 3.2: depthwise filters hold so few parameters that decay harms them.
    """
    depthwise: Sequence[nn.Conv2d] = [
        m for m in module.modules() if isinstance(m, nn.Conv2d) and 1 < m.groups == m.in_channels
    ]
    return {p for m in depthwise for p in m.parameters()} | {p for p in module.parameters() if p.ndim < 2}
