"""The network as it is exported: from pixels, including normalisation, to named outputs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
import torch
from torch import Tensor, nn

from tasks.engine.model import Model

Layout = Literal["uint8_nhwc", "float_nchw"]


class Graph(nn.Module):
    """`model` from pixels in 0..255, uint8 (B, R, R, 3) or float (B, 3, R, R), to a tuple of tensors."""

    def __init__(self, model: Model, layout: Layout, with_nms: bool) -> None:
        super().__init__()
        self.model, self.layout, self.with_nms = model, layout, with_nms
        shape = (3, 1, 1) if layout == "float_nchw" else (3,)
        for name, value in (("mean", model.mean), ("scale", 1 / model.std)):
            self.register_buffer(name, value.detach().clone().view(shape), persistent=False)
        self.mean: Tensor
        self.scale: Tensor
        self.eval()

    def normalised(self, images: Tensor) -> Tensor:
        """The input of the model's forward."""
        x = (images.float() - self.mean) * self.scale
        return x.permute(0, 3, 1, 2) if self.layout == "uint8_nhwc" else x

    def named(self, images: Tensor) -> dict[str, Tensor]:
        """The outputs by name."""
        return self.model.export_forward(self.normalised(images), self.with_nms)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.named(images).values())

    def example(self, batch: int, resolution: int) -> Tensor:
        """An input of the right shape with random pixels."""
        pixels = torch.randint(0, 256, (batch, resolution, resolution, 3), dtype=torch.uint8)
        return self.pixels(pixels.permute(0, 3, 1, 2))

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 images (B, 3, R, R) in the layout of the input."""
        if self.layout == "float_nchw":
            return images.float().contiguous()
        return images.permute(0, 2, 3, 1).contiguous()


@dataclass(frozen=True)
class Job:
    """The arguments of a format's `write`."""

    graph: Graph
    example: Tensor  # an input
    names: list[str]  # of the outputs
    path: Path
    calibration: npt.NDArray[Any]  # inputs for int8 calibration; empty for a float file
    checkpoint: dict[str, Any]
