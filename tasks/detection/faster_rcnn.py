"""Faster R-CNN (Ren et al. 2015) as in the MobileNets paper's Table 13, built from torchvision's modules."""

from math import log2
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from backbones.errors import UserError
from backbones.mobilenet_v1 import MobileNetV1
from tasks.detection.anchors import CODER_SCALES, region_anchors
from tasks.detection.detector import Detections, Detector
from tasks.detection.heads import predictor
from tasks.detection.necks import separable
from tasks.detection.nms import nms_mask
from tasks.detection.roi_align import roi_align
from tasks.engine.model import average_pool

if TYPE_CHECKING:
    from torchvision.models.detection.image_list import ImageList
    from torchvision.models.detection.roi_heads import RoIHeads
    from torchvision.models.detection.rpn import RegionProposalNetwork

ANCHOR_SIDES = (64 / 600, 128 / 600, 256 / 600, 512 / 600)  # fractions of the input's side; TF's sides at 600 px
RATIOS = (0.5, 1.0, 2.0)
CROP = 14
CANDIDATES = 2000  # (box, class) pairs of an image that enter the final NMS of an exported file


class ProposalHead(nn.Module):
    """3 x 3 convolution, then for each anchor two scores (as in TF, one is for background) and four deltas."""

    def __init__(self, channels: int, depth: int, anchors: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, depth, 3, padding=1)
        self.scores = predictor(depth, 2 * anchors)
        self.deltas = predictor(depth, 4 * anchors)

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        hidden = [self.conv(x).relu() for x in maps]
        # The softmax of two scores is the sigmoid of their difference, which torchvision expects.
        pairs = [self.scores(x).float().unflatten(1, (-1, 2)) for x in hidden]
        return [pair[:, :, 1] - pair[:, :, 0] for pair in pairs], [self.deltas(x).float() for x in hidden]


def crop_proposals(maps: Tensor, boxes_BP4: Tensor, resolution: int) -> Tensor:
    """Crops (B * P, C, CROP, CROP) of maps whose scale is rounded to a power of two, as in torchvision."""
    return roi_align(maps, boxes_BP4, CROP, 2.0 ** round(log2(maps.shape[-1] / resolution)))


class RoIAlign(nn.Module):
    """The crops of all images' proposals (P, 4), as torchvision's MultiScaleRoIAlign makes them of one map."""

    def forward(self, maps: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        boxes_BP4 = nn.utils.rnn.pad_sequence(boxes, batch_first=True)
        crops = crop_proposals(maps["0"], boxes_BP4, sizes[0][1])
        most = boxes_BP4.shape[1]
        if all(len(own) == most for own in boxes):
            return crops
        return torch.cat([crops[i * most : i * most + len(own)] for i, own in enumerate(boxes)])


class BoxHead(nn.Module):
    """The last blocks (MobileNetV1's 12 and 13) on each proposal's crop, average-pooled: (P, C, 14, 14) to (P, D)."""

    def __init__(self, blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, crops: Tensor) -> Tensor:
        return average_pool(self.blocks(crops))


class BoxPredictor(nn.Module):
    """Scores (P, num_classes + 1) and deltas (P, 4 * (num_classes + 1)); as in TF, background has no deltas."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.scores = nn.Linear(channels, num_classes + 1)
        self.deltas = nn.Linear(channels, num_classes * 4)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        deltas = self.deltas(features).float()
        return self.scores(features).float(), nn.functional.pad(deltas, (4, 0))


class FasterRCNN(Detector):
    """RPN on the map at stride 16, and the backbone's last blocks on each of `proposals` crops."""

    strides = (16,)
    has_whole_backbone = False
    phone_format = "onnx"  # the only format with NMS between the stages

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        resolution: int,
        *,
        proposals: int = 300,
        train_proposals: int = 64,
        nms_iou: float = 0.6,
        max_detections: int = 100,
    ) -> None:
        super().__init__(backbone, num_classes, resolution, nms_iou=nms_iou, max_detections=max_detections)
        self.proposals, self.train_proposals = proposals, train_proposals
        size = backbone.sizes(resolution)[-1]
        channels = backbone.channels[-1]
        self.splits_backbone = isinstance(backbone, MobileNetV1)
        if isinstance(backbone, MobileNetV1):
            last = backbone.taps[-1] + 1
            tail, depth = nn.Sequential(*backbone.blocks[last:]), backbone.depths[-1]
            backbone.blocks = backbone.blocks[:last]
        else:  # for a backbone that cannot be split: untrained layers of the same form
            depth = 2 * channels
            tail = nn.Sequential(separable(channels, depth, 2), separable(depth, depth))
        sides = [resolution * side for side in ANCHOR_SIDES]
        self.register_buffer("anchors", region_anchors(size, self.strides[0], sides, RATIOS), persistent=False)
        self.anchors: Tensor
        # named as in torchvision's modules
        self.rpn = nn.ModuleDict({"head": ProposalHead(channels, 512, len(sides) * len(RATIOS))})
        box_predictor = BoxPredictor(depth, num_classes)
        self.roi_heads = nn.ModuleDict(
            {"box_roi_pool": RoIAlign(), "box_head": BoxHead(tail), "box_predictor": box_predictor}
        )

    def backbone_layers(self) -> list[nn.Module]:
        return [self.backbone, self.roi_heads["box_head"]] if self.splits_backbone else [self.backbone]

    def class_layers(self) -> list[nn.Module]:
        return [*self.roi_heads["box_predictor"].children()]

    def stages(self) -> "tuple[RegionProposalNetwork, RoIHeads]":
        """torchvision's modules around our layers. They are created on use: importing torchvision takes as long as
        importing torch, and counting multiply-adds does not need it.
        """
        from torchvision.models.detection.roi_heads import RoIHeads
        from torchvision.models.detection.rpn import RegionProposalNetwork

        first = RegionProposalNetwork(
            lambda images, _: [self.anchors] * len(images.image_sizes),
            self.rpn["head"],
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 8 * self.proposals, "testing": 8 * self.proposals},
            post_nms_top_n={"training": 4 * self.proposals, "testing": self.proposals},
            nms_thresh=0.7,
        )
        second = RoIHeads(
            **self.roi_heads,
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=self.train_proposals,
            positive_fraction=0.25,
            bbox_reg_weights=CODER_SCALES,
            score_thresh=self.score_threshold,
            nms_thresh=self.nms_iou,
            detections_per_img=self.max_detections,
        )
        first.training = second.training = self.training  # not `train()`: the layers' mode is set already
        return first, second

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, R, R) to the map (B, C, R / 16, R / 16) that both stages use."""
        return self.backbone(images)[-1]

    def anchor_boxes(self) -> Tensor:
        return self.anchors

    def export_forward(self, images: Tensor, with_nms: bool) -> dict[str, Tensor]:
        """The two stages of `postprocess` on tensors of fixed shapes."""
        if not with_nms:
            raise UserError("detector=faster_rcnn needs NMS between its stages, which only format=onnx supports")
        maps = self(images)
        boxes_BP4, valid_BP = self._proposals(maps)
        scores_NC, boxes_NC4 = self._second_stage(maps, boxes_BP4)
        batch = maps.shape[0]  # len() would make it a constant
        boxes_BK4, scores_BK = boxes_NC4.reshape(batch, -1, 4), scores_NC.reshape(batch, -1)
        valid_BK = valid_BP[..., None].expand(-1, -1, self.num_classes).flatten(1) & self._large(boxes_BK4, 1e-2)
        scores_BK, order_BK = (scores_BK * valid_BK).topk(min(CANDIDATES, scores_BK.shape[1]))
        boxes_BK4 = boxes_BK4.gather(1, order_BK[..., None].expand(-1, -1, 4))
        return self.apply_nms(boxes_BK4, scores_BK, order_BK % self.num_classes)

    def _proposals(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (B, P, 4), and which of them (B, P) are valid."""
        first, _ = self.stages()
        (logits,), (deltas,) = first.head([maps])
        batch, cell = maps.shape[0], logits.shape[1]
        scores_BA = logits.permute(0, 2, 3, 1).reshape(batch, -1).sigmoid()
        deltas = deltas.unflatten(1, (cell, 4)).permute(0, 3, 4, 1, 2).reshape(-1, 4)
        boxes_BA4 = first.box_coder.decode_single(deltas, self.anchors.repeat(batch, 1)).reshape(batch, -1, 4)
        scores_BA, order_BA = scores_BA.topk(min(first.pre_nms_top_n(), scores_BA.shape[1]))
        boxes_BA4 = boxes_BA4.gather(1, order_BA[..., None].expand(-1, -1, 4)).clamp(0, self.resolution)
        scores_BA = scores_BA * self._large(boxes_BA4, first.min_size)
        scores_BA = scores_BA * nms_mask(boxes_BA4, scores_BA[:, None], first.nms_thresh, 0.0)
        best_BP, order_BP = scores_BA.topk(min(self.proposals, scores_BA.shape[1]))
        return boxes_BA4.gather(1, order_BP[..., None].expand(-1, -1, 4)), best_BP > 0

    def _second_stage(self, maps: Tensor, boxes_BP4: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B * P, num_classes) of the objects' classes, and for each a box (B * P, num_classes, 4)."""
        crops = crop_proposals(maps, boxes_BP4, self.resolution)
        boxes_N4 = boxes_BP4.reshape(-1, 4)
        _, second = self.stages()
        logits, deltas = second.box_predictor(second.box_head(crops))
        boxes = second.box_coder.decode_single(deltas, boxes_N4).unflatten(1, (-1, 4))
        return logits.softmax(dim=1)[:, 1:], boxes[:, 1:].clamp(0, self.resolution)

    @staticmethod
    def _large(boxes: Tensor, side: float) -> Tensor:
        """Which boxes (..., 4) have sides of at least `side`."""
        return (boxes[..., 2:] - boxes[..., :2] >= side).all(dim=-1)

    def run_all_layers(self, images: Tensor) -> None:
        """Runs both stages, the second on as many crops as there are proposals."""
        features = self(images)
        self.rpn["head"]([features])
        crops = features.new_zeros(self.proposals * len(images), features.shape[1], CROP, CROP)
        self.roi_heads["box_predictor"](self.roi_heads["box_head"](crops))

    def _inputs(self, outputs: Tensor) -> "tuple[dict[str, Tensor], ImageList, list[tuple[int, int]]]":
        from torchvision.models.detection.image_list import ImageList

        sizes = [(self.resolution, self.resolution)] * len(outputs)
        if not torch.is_autocast_enabled(outputs.device.type):  # the maps may come from autocast
            outputs = outputs.float()
        return {"0": outputs}, ImageList(outputs, sizes), sizes  # only the images' sizes are read

    def loss(self, outputs: Tensor, boxes_BN4: Tensor, labels_BN: Tensor) -> dict[str, Tensor]:
        """Losses of both stages, each averaged over its sampled anchors or proposals."""
        features, images, sizes = self._inputs(outputs)
        targets = [
            {"boxes": boxes[labels >= 0], "labels": labels[labels >= 0] + 1}
            for boxes, labels in zip(boxes_BN4, labels_BN, strict=True)
        ]
        first, second = self.stages()
        proposals, losses = first(images, features, targets)
        losses |= second(features, proposals, sizes, targets)[1]
        return {
            "proposal": losses["loss_objectness"],
            "proposal_box": losses["loss_rpn_box_reg"],
            "class": losses["loss_classifier"],
            "box": losses["loss_box_reg"],
        }

    def postprocess(self, outputs: Any) -> Detections:
        """Both stages and class-wise NMS."""
        features, images, sizes = self._inputs(outputs)
        first, second = self.stages()
        proposals, _ = first(images, features)
        found, _ = second(features, proposals, sizes)
        result = self.empty(len(found), outputs)
        for i, image in enumerate(found):
            count = len(image["scores"])
            result.boxes[i, :count] = image["boxes"]
            result.scores[i, :count] = image["scores"]
            result.labels[i, :count] = image["labels"] - 1
        return result
