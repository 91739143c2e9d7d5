"""The task of face attributes: learned from labels, from a teacher, or from both."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbones.errors import UserError
from data.base import Split, SuiteData
from data.classification import ClassificationBatch, ImageSet
from tasks.distill.load import teacher_labels, teacher_of
from tasks.distill.task import DistillableTask
from tasks.distill.teacher import TableTeacher
from tasks.engine.metrics import RowMetrics
from tasks.faces.model import AttributeNet


class FacesTask(RowMetrics, DistillableTask):
    """Trains an attribute classifier; `primary` is the mean of the attributes' average precisions (Table 12)."""

    primary = "map"
    published_classes = 40  # CelebA
    model: AttributeNet

    @classmethod
    def data_settings(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        settings = config["data"]
        if settings.get("target"):
            raise UserError("data.target is a column of classes; the columns of task=faces are data.attributes=[names]")
        if settings.get("attributes", ...) is not None:
            return {}
        if "target" in settings:  # a table knows its attributes
            return {"attributes": []}
        return {"attributes": teacher_labels(config["teacher"])} if config["teacher"] else {}

    def check(self, data: SuiteData) -> None:
        super().check(data)
        train, val = data.dataset("train"), data.dataset("val")
        assert isinstance(train, ImageSet)
        assert isinstance(val, ImageSet)
        if not self.teacher and len(train) and not any((np.asarray(s.label) >= 0).any() for s in train.samples):
            raise UserError("no training image has a label: name a teacher (teacher=), or set data.labelled_fraction=1")
        if isinstance(self.teacher, TableTeacher):
            self.teacher.check(s.path for s in val.samples if (np.asarray(s.label) < 0).any())

    def build_model(self) -> AttributeNet:
        return AttributeNet(self.build_backbone(AttributeNet.strides), len(self.labels), self.config["task"]["dropout"])

    def compute_losses(self, batch: ClassificationBatch) -> dict[str, Tensor]:
        logits = self.model(self.model.preprocess(batch.images))
        if not self.teacher:
            return {"attribute": self.model.loss(logits, batch.labels)}
        mix, temperature = self.config["distill"]["teacher_weight"], self.config["distill"]["temperature"]
        soft = self.model.distillation(logits, self.teacher(batch.images, batch), temperature)
        found = {"teacher": mix * soft}
        if mix < 1:
            found["attribute"] = (1 - mix) * self.model.loss(logits, batch.labels)
        return found

    def truth(self, batch: ClassificationBatch) -> Tensor:
        """The labels (B, A) of a batch; unknown ones are taken from the teacher, if there is one."""
        labels = batch.labels.long()
        if self.config["teacher"] and not self.teacher and self.asks_teacher:  # evaluated outside training
            self.teacher = teacher_of(self, self.data)
        if self.teacher and bool((labels < 0).any()):
            labels = labels.where(labels >= 0, (self.teacher.direct(batch.images, batch) > 0).long())
        return labels

    def update_metrics(self, batch: ClassificationBatch) -> None:
        rows = torch.tensor(batch.rows, device=self.device)[:, None]
        scores = self.named_outputs(batch.images)["probabilities"]
        self.measured.update(torch.cat([rows, scores, self.truth(batch)], dim=1))  # index, scores, labels

    def compute_metrics(self, split: Split) -> dict[str, float]:
        """Mean and each attribute's average precision, accuracy at 0.5, and the calibration error (15 bins)."""
        from torchmetrics.functional.classification import binary_calibration_error

        _, scores, labels = self.rows()
        known = labels >= 0
        precision = self.precisions(scores, labels)
        if self.config["teacher"] and not self.teacher and not bool(known.any()):
            teacher_of(self, self.data)  # says that it must be named
        if not bool(precision.isfinite().any()):
            raise UserError(f"no {split} image is known to have any of the attributes; they cannot be measured")
        right = ((scores > 0.5) == (labels == 1))[known].float().mean()
        found = {
            "map": float(precision.nanmean()),
            "accuracy": float(right),
            "calibration_error": float(binary_calibration_error(scores[known], labels[known], n_bins=15)),
        }
        return found | {
            f"ap/{name}": value
            for name, value in zip(self.labels, precision.tolist(), strict=True)
            if value == value  # an attribute that no image has is left out
        }

    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """The measured images, each once: indices (N,), scores (N, A), labels (N, A)."""
        measured = self.measured_rows()
        count = len(self.labels)
        index, scores, labels = measured.split([1, count, count], dim=1)
        return index[:, 0].long(), scores, labels.long()

    @staticmethod
    def precisions(scores: Tensor, labels: Tensor) -> Tensor:
        """Average precision (A,) of each attribute; nan where no image is known to have it."""
        from torchmetrics.functional.classification import multilabel_average_precision

        there = (labels == 1).any(dim=0)
        found = torch.full((scores.shape[1],), torch.nan)
        if bool(there.any()):
            found[there] = multilabel_average_precision(
                scores[:, there],
                labels[:, there],
                num_labels=int(there.sum()),
                average="none",
                ignore_index=-1,
                validate_args=False,
            )
        return found

    def figures(self) -> dict[str, Tensor]:
        from tasks.faces.figures import worst_attributes

        index, scores, labels = self.rows()
        dataset = self.data.dataset("val")
        assert isinstance(dataset, ImageSet)
        return worst_attributes(self.labels, self.precisions(scores, labels), index, scores, labels, dataset)

    def ground_truth(self, batch: ClassificationBatch) -> list[dict[str, Any]]:
        return [
            {"attributes": [{"label": name} for name, v in zip(self.labels, row, strict=True) if v == 1]}
            for row in batch.labels.tolist()
        ]
