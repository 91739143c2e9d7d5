"""A classifier: backbone, global average pool, dropout and one fully connected layer."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from tasks.classification.losses import cross_entropy, generalized_cross_entropy, target_probabilities
from tasks.export.answers import classes
from tasks.export.graph import ExportSpec

Form = Literal["classes", "attributes", "embedding"]  # what a network says of an image


class PooledNet(nn.Module):
    """The shape of the paper's Table 1: images (B, 3, H, W) to (B, outputs)."""

    form: ClassVar[Form]
    strides = (32,)
    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.outputs = outputs
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(backbone.channels[-1], outputs)
        mean, std = (torch.tensor(v).view(3, 1, 1) * 255 for v in backbone.normalization)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def preprocess(self, images: Tensor) -> Tensor:
        """RGB (B, 3, H, W) in 0..255 to what the backbone expects."""
        return (images.float() - self.mean) / self.std

    def embed(self, images: Tensor) -> Tensor:
        """Normalised images to the averaged features (B, channels) that the head sees."""
        return self.backbone(images)[-1].mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.dropout(self.embed(images)))


class Classifier(PooledNet):
    """Images to the logits (B, num_classes) of classes that exclude each other."""

    form = "classes"
    exports = ExportSpec({"probabilities": "of each class"}, answer=classes)

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        dropout: float = 0.0,
        *,
        loss: Literal["cross_entropy", "generalized"] = "cross_entropy",
        noise_q: float = 0.7,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(backbone, num_classes, dropout)
        self.loss_name, self.noise_q, self.label_smoothing = loss, noise_q, label_smoothing

    def postprocess(self, logits: Tensor) -> Tensor:
        """Probabilities (B, num_classes)."""
        return logits.float().softmax(dim=1)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss over the batch; targets are class indices (B,) or probabilities (B, num_classes)."""
        targets_BC = target_probabilities(targets, logits.shape[1], self.label_smoothing)
        if self.loss_name == "generalized":
            return generalized_cross_entropy(logits, targets_BC, self.noise_q)
        return cross_entropy(logits, targets_BC)
