"""The task of face embeddings: distilled from a teacher, or learned from images of people."""

import logging
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.errors import UserError
from data.base import Split, SuiteData
from data.classification import ClassificationBatch, ImageSet
from data.identities import IdentityData
from tasks.distill.task import DistillableTask
from tasks.embedding.losses import MARGINS, MarginHead, semi_hard_triplet
from tasks.embedding.model import EmbeddingNet
from tasks.embedding.verification import Roc, lfw_accuracy, recalls
from tasks.engine.metrics import RowMetrics

log = logging.getLogger(__name__)


class EmbeddingTask(RowMetrics, DistillableTask):
    """Trains an embedding; `primary` is the true accept rate, over pairs of one person, at a false accept rate, over
    pairs of two people, of 1 %.
    """

    primary = "tar_far1e-2"
    closed_set: ClassVar[bool] = False  # it is tested on other people than it was trained on
    pairwise_metrics: ClassVar[bool] = True
    model: EmbeddingNet

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = self.config["task"]
        self.learns_people = not self.config["teacher"] or self.config["distill"]["teacher_weight"] < 1
        self.margin = settings["margin"] or MARGINS[settings["loss"]]
        self.head: MarginHead | None = None  # used only in training, so no part of the model
        if self.learns_people and settings["loss"] != "triplet":
            kind = {"kind": settings["loss"], "margin": self.margin, "scale": settings["scale"]}
            self.head = MarginHead(settings["dim"], len(self.labels), **kind)

    def build_model(self) -> EmbeddingNet:
        settings = self.config["task"]
        return EmbeddingNet(self.build_backbone(EmbeddingNet.strides), settings["dim"], settings["dropout"])

    def class_layers(self) -> list[nn.Module]:
        return [self.head] if self.head else []  # the people's centres

    def check(self, data: SuiteData) -> None:
        if self.learns_people and not self.labels:
            raise UserError("images without identities need a teacher and distill.teacher_weight=1")
        if (
            self.learns_people
            and self.config["task"]["loss"] == "triplet"
            and self.config["data"]["images_per_person"] < 2
        ):
            raise UserError(
                "task.loss=triplet needs several images of a person in a batch: set data.images_per_person, say to 4"
            )
        super().check(data)

    def embed(self, images: Tensor) -> Tensor:
        """Unit vectors (B, D) for uint8 images (B, 3, R, R)."""
        found: Tensor = self.model(self.model.preprocess(images))
        return found

    def compute_losses(self, batch: ClassificationBatch) -> dict[str, Tensor]:
        embeddings = self.embed(batch.images)
        mix = self.config["distill"]["teacher_weight"] if self.teacher else 0.0
        found = {}
        if self.teacher:
            found["teacher"] = mix * self.model.loss(embeddings, self.teacher(batch.images, batch))
        if mix < 1:
            if self.head:
                people = self.head(embeddings, batch.labels)
            else:
                people = semi_hard_triplet(embeddings, batch.labels, self.margin)
            found[self.config["task"]["loss"]] = (1 - mix) * people
        return found

    def parameter_groups(self) -> list[dict[str, Any]]:
        settings, groups = self.config["trainer"], super().parameter_groups()
        if self.head:
            own = {"params": [*self.head.parameters()], "lr": settings["lr"], "weight_decay": settings["weight_decay"]}
            groups.append(own)
        return groups

    def update_metrics(self, batch: ClassificationBatch) -> None:
        facts = torch.stack([torch.tensor(batch.rows, device=self.device), batch.labels], dim=1)
        self.measured.update(torch.cat([facts, self.embed(batch.images)], dim=1))  # index, person, embedding

    def rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The measured images, each once: indices (N,), people (N,), unit vectors (N, D)."""
        measured = self.measured_rows()
        facts, vectors = measured.split([2, measured.shape[1] - 2], dim=1)
        index, people = facts.long().T.numpy()
        return index, people, F.normalize(vectors, dim=1).numpy()

    def compute_metrics(self, split: Split) -> dict[str, float]:
        """TAR at FAR, AUC and equal error rate over all pairs; recall; LFW's accuracy if the split lists pairs."""
        index, people, vectors = self.rows()
        roc = Roc.of(vectors, people)
        if not (roc.genuine and roc.impostor):
            raise UserError(f"the {split} split needs two people, and two images of one of them")
        found = roc.summary() | {f"recall_{k}": share for k, share in recalls(vectors, people).items()}
        data: IdentityData = self.data
        if pairs := data.pairs(split):
            kept: np.ndarray = np.isin(pairs.rows, index).min(axis=1)  # unreadable images were not measured
            if not kept.all():
                log.warning("%d pairs of %s have unreadable images", (~kept).sum(), data.pairs_file)
            first, second = vectors[np.searchsorted(index, pairs.rows[kept])].transpose(1, 0, 2)
            found["lfw_accuracy"], found["lfw_std"] = lfw_accuracy((first * second).sum(axis=1), pairs.of(kept))
        return found

    def figures(self) -> dict[str, Tensor]:
        from tasks.embedding.figures import pairs_page, roc_figure
        from tasks.engine.plots import render_figure

        index, people, vectors = self.rows()
        dataset = self.data.dataset("val")
        assert isinstance(dataset, ImageSet)
        roc = render_figure(roc_figure(Roc.of(vectors, people)))
        return {"roc": roc, "hard_pairs": pairs_page(index, people, vectors, dataset)}

    def ground_truth(self, batch: ClassificationBatch) -> list[dict[str, Any]]:
        return [{} for _ in batch.labels]
