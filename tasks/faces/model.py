"""The network of the paper's Table 12: any number of attributes, each present or absent."""

import torch.nn.functional as F
from torch import Tensor, nn

from tasks.engine.model import ExportSpec, PooledNet


class AttributeNet(PooledNet):
    """Images (B, 3, H, W) to logits (B, A), one for each attribute."""

    output_kind = "attributes"
    export_spec = ExportSpec({"probabilities": "of each attribute, for itself"})

    def class_layers(self) -> list[nn.Module]:
        return [self.head]

    def postprocess(self, logits: Tensor) -> Tensor:
        """Probabilities (B, A)."""
        return logits.float().sigmoid()

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy averaged over the known attributes (MobileNets, section 4.5).

        Targets (B, A) are 1, 0, -1 where unknown, or a teacher's probabilities.
        """
        known = targets >= 0
        each = F.binary_cross_entropy_with_logits(logits.float(), targets.clamp(min=0).float(), reduction="none")
        return (each * known).sum() / known.sum().clamp(min=1)

    def distillation(self, logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
        """The same against a teacher's soft outputs, times T ** 2 so that gradients keep their size at any T."""
        soft = (teacher_logits.float() / temperature).sigmoid()
        return self.loss(logits.float() / temperature, soft) * temperature**2
