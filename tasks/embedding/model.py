"""The network of the paper's Table 14: an image of a face to a point on a sphere, near to those of the same face."""

import torch.nn.functional as F
from torch import Tensor

from tasks.engine.model import ExportSpec, PooledNet


class EmbeddingNet(PooledNet):
    """Images (B, 3, H, W) to embeddings (B, D) of length 1, whose inner products say how alike two faces are."""

    output_kind = "embedding"
    export_spec = ExportSpec({"embedding": "of length 1: inner products say how alike two faces are"})

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(super().forward(images).float(), dim=1)

    def loss(self, embeddings: Tensor, teachers: Tensor) -> Tensor:
        """Squared difference to a teacher's embeddings (B, D), averaged over the images (MobileNets, section 4.7)."""
        return (embeddings.float() - teachers.float()).square().sum(dim=1).mean()
