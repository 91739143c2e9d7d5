"""The network of classification."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone
from tasks.classification.losses import generalized_cross_entropy, target_probabilities
from tasks.engine.model import ExportSpec, PooledNet


class Classifier(PooledNet):
    """Images to the logits (B, num_classes) of mutually exclusive classes."""

    output_kind = "classes"
    export_spec = ExportSpec({"probabilities": "of each class"})

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

    def class_layers(self) -> list[nn.Module]:
        return [self.head]

    def postprocess(self, logits: Tensor) -> Tensor:
        """Probabilities (B, num_classes)."""
        return logits.float().softmax(dim=1)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss over the batch; targets are class indices (B,) or probabilities (B, num_classes)."""
        if self.loss_name == "generalized":
            targets_BC = target_probabilities(targets, logits.shape[1], self.label_smoothing)
            return generalized_cross_entropy(logits, targets_BC, self.noise_q)
        return F.cross_entropy(logits.float(), targets, label_smoothing=self.label_smoothing)
