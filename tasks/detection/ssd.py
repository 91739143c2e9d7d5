"""The SSD family: detectors that classify and refine anchors. Each is a choice of neck, heads and anchors."""

from typing import Any, Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone
from tasks.detection.anchors import assign, decode, encode, pyramid_anchors, ssd_anchors
from tasks.detection.detector import Detector
from tasks.detection.heads import PRIOR, MapHeads, SharedTower
from tasks.detection.losses import hard_negative_cross_entropy, sigmoid_focal
from tasks.detection.necks import FPN, Extras


class AnchorDetector(Detector):
    """Backbone, neck and two heads over anchors.

    The class head has num_classes + 1 outputs per anchor: as in TF, the first is background. `loss` is "focal" (Lin et
    al. 2017; background is the absence of all classes) or "hard_negative" (SSD, section 2.2; `negative_ratio` negatives
    per positive, background is a class).
    """

    anchors: Tensor

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        resolution: int,
        *,
        neck: nn.Module,
        box_head: nn.Module,
        class_head: MapHeads | SharedTower,
        anchors: Tensor,
        loss: Literal["focal", "hard_negative"] = "focal",
        focal_alpha: float = 0.75,
        focal_gamma: float = 2.0,
        negative_ratio: float = 3.0,
        match_iou: float = 0.5,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, num_classes, resolution, **settings)
        self.neck, self.box_head, self.class_head = neck, box_head, class_head
        if loss == "focal":  # which starts from few objects
            for layer in class_head.last_layers():
                nn.init.constant_(cast(Tensor, layer.bias), PRIOR)
        self.loss_name = loss
        self.focal_alpha, self.focal_gamma, self.negative_ratio = focal_alpha, focal_gamma, negative_ratio
        self.match_iou = match_iou
        self.register_buffer("anchors", anchors, persistent=False)

    def class_layers(self) -> list[nn.Module]:
        return self.class_head.last_layers()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (B, 3, R, R) to box deltas (B, A, 4) and class logits (B, A, num_classes + 1)."""
        maps = self.neck(self.backbone(images))
        return self.box_head(maps), self.class_head(maps)

    def loss(self, outputs: tuple[Tensor, Tensor], boxes_BN4: Tensor, labels_BN: Tensor) -> dict[str, Tensor]:
        """Classification and box losses per positive anchor; boxes in input pixels, labels -1 where padded."""
        deltas, logits = (output.float() for output in outputs)
        index_BA = assign(self.anchors, boxes_BN4, labels_BN, self.match_iou)
        positive_BA = index_BA >= 0
        count = positive_BA.sum().clamp(min=1)
        if boxes_BN4.shape[1] == 0:  # no image of the batch has a box
            boxes_BN4, labels_BN = boxes_BN4.new_zeros(len(boxes_BN4), 1, 4), labels_BN.new_zeros(len(labels_BN), 1)
        nearest_BA = index_BA.clamp(min=0)
        boxes_BA4 = boxes_BN4.gather(1, nearest_BA[..., None].expand(-1, -1, 4))
        classes_BA = labels_BN.gather(1, nearest_BA)
        box = F.smooth_l1_loss(deltas, encode(boxes_BA4, self.anchors), reduction="none").sum(dim=-1)
        box_loss = box.where(positive_BA, 0).sum()
        if self.loss_name == "focal":
            classes_BA = classes_BA.where(positive_BA, -1)
            class_loss = sigmoid_focal(logits[..., 1:], classes_BA, self.focal_alpha, self.focal_gamma)
        else:
            classes_BA = (classes_BA + 1).where(positive_BA, 0)
            class_loss = hard_negative_cross_entropy(logits, classes_BA, self.negative_ratio)
        return {"class": class_loss / count, "box": box_loss / count}

    def anchor_boxes(self) -> Tensor:
        return self.anchors

    def class_logits(self, outputs: tuple[Tensor, Tensor]) -> Tensor:
        return outputs[1][..., 1:]

    def decode_boxes_at(self, outputs: tuple[Tensor, Tensor], index_BK: Tensor) -> Tensor:
        deltas = outputs[0].gather(1, index_BK[..., None].expand(-1, -1, 4)).float()
        return decode(deltas, self.anchors[index_BK])

    def decode_all_boxes(self, outputs: tuple[Tensor, Tensor]) -> Tensor:
        return decode(outputs[0].float(), self.anchors)


def map_sizes(backbone: Backbone, resolution: int, count: int) -> list[int]:
    """Sides of the backbone's maps and of further ones, up to `count`, each halved by a convolution at stride 2."""
    sizes = backbone.sizes(resolution)
    while len(sizes) < count:
        sizes.append(-(-sizes[-1] // 2))
    return sizes


class SSD(AnchorDetector):
    """SSD (Liu et al. 2016) in the form of TF's ssd_mobilenet_v1: two maps of the backbone and four extra ones."""

    strides = (16, 32)
    depthwise = False

    def __init__(self, backbone: Backbone, num_classes: int, resolution: int, **settings: Any) -> None:
        neck = Extras(backbone.channels, backbone.width, self.depthwise)
        counts = (3, *(6,) * (len(neck.channels) - 1))
        super().__init__(
            backbone,
            num_classes,
            resolution,
            neck=neck,
            box_head=MapHeads(neck.channels, counts, 4, self.depthwise),
            class_head=MapHeads(neck.channels, counts, num_classes + 1, self.depthwise),
            anchors=ssd_anchors(map_sizes(backbone, resolution, len(counts)), resolution),
            **settings,
        )


class SSDLite(SSD):
    """SSD with depthwise separable extras and predictors (MobileNetV2, section 6.2)."""

    depthwise = True


class SSDFPN(AnchorDetector):
    """TF's ssd_mobilenet_v1_fpn: a feature pyramid at strides 8 to 128 with shared towers (as in RetinaNet)."""

    strides = (8, 16, 32)

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        resolution: int,
        *,
        channels: int = 256,
        head_layers: int = 4,
        focal_alpha: float = 0.25,
        **settings: Any,
    ) -> None:
        neck = FPN(backbone.channels, channels)
        count = len(neck.channels)
        tower = (channels, head_layers, count, 6)
        super().__init__(
            backbone,
            num_classes,
            resolution,
            neck=neck,
            box_head=SharedTower(*tower, 4),
            class_head=SharedTower(*tower, num_classes + 1),
            anchors=pyramid_anchors(map_sizes(backbone, resolution, count), resolution),
            focal_alpha=focal_alpha,
            **settings,
        )
