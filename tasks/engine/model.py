"""The base class of every task's network, which can be deployed alone, without Lightning, Hydra or files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from backbones.cost import Cost, measure_cost

# what a network's outputs are, for a teacher to match
OutputKind = Literal["classes", "attributes", "embedding", "position"]


def identity(output: Any) -> Any:
    return output


def average_pool(x: Tensor) -> Tensor:
    """The mean (B, C) of each channel of a map (B, C, H, W)."""
    if x.requires_grad and not torch.compiler.is_compiling():
        # The backward pass of mean allocates a gradient in NCHW, with which the preceding channels_last layers take
        # twice as long; that of sum returns a view.
        return x.sum(dim=(2, 3)) / x[0, 0].numel()
    return x.mean(dim=(2, 3))


@dataclass(frozen=True)
class ExportSpec:
    """How a model is described in an export.

    `outputs` gives the meaning of each tensor of `Model.postprocess`, by name and in order; `result` turns
    these tensors into what `postprocess` returns.
    """

    outputs: Mapping[str, str]
    result: Callable[..., Any] = identity


class Model(nn.Module):
    """A backbone with heads: preprocess -> forward -> postprocess, and `loss` to train it.

    A task's model defines `forward`, `loss`, `strides` (of the backbone's maps that it uses) and `export_spec`.
    """

    strides: ClassVar[tuple[int, ...]] = (32,)
    has_whole_backbone: ClassVar[bool] = True  # Faster R-CNN moves the last blocks to its second stage
    export_spec: ClassVar[ExportSpec] = ExportSpec({"output": "what the network returns"})
    phone_format: ClassVar[str] = "litert"  # the export format that a run's report suggests for a phone
    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        mean, std = (torch.tensor(v).view(3, 1, 1) * 255 for v in backbone.normalization)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def backbone_layers(self) -> list[nn.Module]:
        """The modules whose layers are the backbone's, and start from its weights."""
        return [self.backbone]

    def class_layers(self) -> list[nn.Module]:
        """The layers with outputs for each class of the data."""
        return []

    def preprocess(self, images: Tensor) -> Tensor:
        """RGB (B, 3, H, W) in 0..255 to what the backbone expects."""
        return (images.float() - self.mean) / self.std

    def forward(self, images: Tensor) -> Any:
        """Normalised images (B, 3, R, R) to the network's raw outputs."""
        raise NotImplementedError("a model defines forward")

    def postprocess(self, outputs: Any) -> Any:
        """Raw outputs to results: a tensor or a NamedTuple of tensors, all with the batch dimension first."""
        return outputs

    def loss(self, outputs: Any, *targets: Any) -> Any:
        """A scalar, or scalars by name."""
        raise NotImplementedError("a model defines loss")

    def export_forward(self, images: Tensor, with_nms: bool) -> dict[str, Tensor]:
        """What an exported file returns for normalised images, by the names of `export_spec`.

        A detector omits non-maximum suppression if the format does not support it (`with_nms`).
        """
        return self.named(self.postprocess(self(images)))

    def named(self, answers: Any) -> dict[str, Tensor]:
        """The output of `postprocess` by the names of `export_spec`."""
        answers = (answers,) if isinstance(answers, Tensor) else answers
        return dict(zip(self.export_spec.outputs, answers, strict=True))

    def from_export(self, outputs: dict[str, Tensor]) -> Any:
        """The output of `postprocess`, from the outputs of an exported file."""
        return self.export_spec.result(*outputs.values())

    def run_all_layers(self, images: Tensor) -> None:
        """Runs every layer once, whatever the images show, for counting and timing."""
        self(images)

    def cost(self, resolution: int) -> Cost:
        """Multiply-adds and parameters at resolution x resolution pixels."""
        return measure_cost(self, resolution, self.run_all_layers)


class PooledNet(Model):
    """The architecture of the paper's Table 1: backbone, global average pool, dropout and one fully connected layer,
    from images (B, 3, H, W) to (B, outputs).
    """

    output_kind: ClassVar[OutputKind]

    def __init__(self, backbone: Backbone, outputs: int, dropout: float = 0.0) -> None:
        super().__init__(backbone)
        self.outputs = outputs
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(backbone.channels[-1], outputs)

    def embed(self, images: Tensor) -> Tensor:
        """Normalised images to the pooled features (B, channels) that the head sees."""
        return average_pool(self.backbone(images)[-1])

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.dropout(self.embed(images)))
