"""A classifier: backbone, global average pool, dropout and one fully connected layer."""

from torch import Tensor, nn

from backbones.base import Backbone


class Classifier(nn.Module):
    """The network of the paper's Table 1: images (B, 3, H, W) to logits (B, num_classes)."""

    strides = (32,)

    def __init__(self, backbone: Backbone, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(backbone.channels[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)[-1].mean(dim=(2, 3))
        return self.head(self.dropout(features))
