"""The network as a device sees it: from pixels, normalisation included, to named answers."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tasks.export.answers import Outputs, values

Layout = Literal["uint8_nhwc", "float_nchw"]


@dataclass(frozen=True)
class ExportSpec:
    """What a model says of itself to be exported, as its attribute `exports`: the meaning of each tensor that
    `postprocess` gives, in order, and how to make plain answers of them.

    A model may also define `export_forward(images, with_nms)`, which maps normalised images to tensors by name, without the
    steps that only ONNX has unless `with_nms`, and its inverse `from_export(outputs)`, which gives what `postprocess` would.
    """

    outputs: Mapping[str, str] = field(default_factory=lambda: {"output": "what the network returns"})
    answer: Callable[[Outputs, dict[str, Any]], list[dict[str, Any]]] = values
    helpers: tuple[Callable[..., Any], ...] = ()  # that `answer` calls


def export_spec_of(model: nn.Module) -> ExportSpec:
    found = getattr(model, "exports", ExportSpec())
    assert isinstance(found, ExportSpec)
    return found


class Graph(nn.Module):
    """`model` from pixels in 0..255, uint8 (B, R, R, 3) or float (B, 3, R, R), to a tuple of tensors."""

    def __init__(self, model: nn.Module, layout: Layout, with_nms: bool) -> None:
        super().__init__()
        self.model, self.layout, self.with_nms = model, layout, with_nms
        shape = (3, 1, 1) if layout == "float_nchw" else (3,)
        for name, value in (("mean", model.mean), ("scale", 1 / model.std)):  # type: ignore[operator]
            self.register_buffer(name, value.detach().clone().view(shape), persistent=False)  # type: ignore[union-attr, operator]
        self.mean: Tensor
        self.scale: Tensor
        self.eval()

    def normalised(self, images: Tensor) -> Tensor:
        """What the model's forward takes."""
        x = (images.float() - self.mean) * self.scale
        return x.permute(0, 3, 1, 2) if self.layout == "uint8_nhwc" else x

    def named(self, images: Tensor) -> dict[str, Tensor]:
        """The answers by name."""
        x = self.normalised(images)
        if hasattr(self.model, "export_forward"):
            return self.model.export_forward(x, self.with_nms)  # type: ignore[operator]
        found = self.model(x)
        if hasattr(self.model, "postprocess"):
            found = self.model.postprocess(found)  # type: ignore[operator]
        found = (found,) if isinstance(found, Tensor) else found
        return dict(zip(export_spec_of(self.model).outputs, found, strict=True))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.named(images).values())

    def example(self, batch: int, resolution: int) -> Tensor:
        """An input of the right shape, with pixels at random."""
        pixels = torch.randint(0, 256, (batch, resolution, resolution, 3), dtype=torch.uint8)
        return self.pixels(pixels.permute(0, 3, 1, 2))

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 images (B, 3, R, R) in the layout of the input."""
        if self.layout == "float_nchw":
            return images.float().contiguous()
        return images.permute(0, 2, 3, 1).contiguous()


@dataclass(frozen=True)
class Job:
    """What a format's `write` is to write."""

    graph: Graph
    example: Tensor  # an input
    names: list[str]  # of the outputs
    path: Path
    calibration: npt.NDArray[Any]  # inputs to take int8's ranges from; none where the file is to be float
    checkpoint: dict[str, Any]


def in_batches(images: npt.NDArray[Any], batch: int) -> Iterator[npt.NDArray[Any]]:
    """`images` in batches of one size, the last filled up with its last image."""
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        yield np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])


def from_export(model: nn.Module, outputs: dict[str, Tensor]) -> Any:
    """What the model's `postprocess` would have given, from a file's outputs."""
    if hasattr(model, "from_export"):
        return model.from_export(outputs)  # type: ignore[operator]
    tensors = list(outputs.values())
    kind = getattr(getattr(model, "postprocess", None), "__annotations__", {}).get("return", Tensor)
    return tensors[0] if kind is Tensor else kind(*tensors)
