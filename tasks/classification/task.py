"""The classification task: a classifier, its accuracies and its images."""

import logging
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from backbones.errors import UserError
from data.base import Split, SuiteData
from data.classification import ClassificationBatch
from tasks.classification.imagenet import imagenet_rows
from tasks.classification.losses import distillation
from tasks.classification.mistakes import Mistakes
from tasks.classification.model import Classifier
from tasks.distill.task import DistillableTask
from tasks.distill.teacher import Network
from tasks.engine.metrics import RowMetrics

log = logging.getLogger(__name__)

PER_CLASS = 120  # with more classes, their accuracies are only in the confusion matrix
TOP = 5
IMAGENET_CLASSES = 1000


class ClassificationTask(RowMetrics, DistillableTask):
    """Trains a classifier; `primary` is the share of images whose best class is right."""

    primary = "top1"
    published_classes = 1000  # ImageNet
    model: Classifier

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mixes = bool(self.config["task"]["mixup"] or self.config["task"]["cutmix"])

    def build_metrics(self) -> None:
        super().build_metrics()
        self.mistakes = Mistakes()

    @classmethod
    def data_settings(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        if config["data"].get("attributes"):
            raise UserError("data.attributes are for task=faces; the column of the classes is data.target=<column>")
        return {}

    def build_model(self) -> Classifier:
        settings = self.config["task"]
        chosen = {name: settings[name] for name in ("dropout", "loss", "noise_q", "label_smoothing")}
        backbone = self.build_backbone(Classifier.strides)
        model = Classifier(backbone, len(self.labels), **chosen)
        if backbone.classifier:
            self._use_classifier(model, backbone.classifier)
        return model

    def _use_classifier(self, model: Classifier, classifier: Mapping[str, Tensor]) -> None:
        """Starts from the classifier that came with the weights: from the rows of the labels if it and they are
        ImageNet's, else from all rows if there are as many as labels.
        """
        count = classifier["bias"].numel()
        rows = imagenet_rows(self.labels) if count == IMAGENET_CLASSES else None
        if rows is not None and classifier["weight"].shape[1:] == model.head.weight.shape[1:]:
            self.head_is_pretrained = True
            model.head.load_state_dict({name: tensor[rows] for name, tensor in classifier.items()})
            log.info("starting from the pretrained classifier's outputs for the %d classes of the data", len(rows))
        elif all(classifier[name].shape == own.shape for name, own in model.head.named_parameters()):
            self.head_is_pretrained = True
            model.head.load_state_dict(classifier)
            log.info("starting from the pretrained classifier, whose %d classes must be in the data's order", count)
        else:
            words = "the pretrained classifier of %d classes does not fit the %d classes of the data and is not used"
            log.info(words, count, len(self.labels))

    def check(self, data: SuiteData) -> None:
        super().check(data)
        if self.teacher and self.mixes and not isinstance(self.teacher, Network):
            raise UserError("the cache or table has no outputs for mixed images: set task.mixup=0 task.cutmix=0")

    @cached_property
    def mixer(self) -> Callable[..., Any]:
        """Mixes a batch's images and labels by MixUp or CutMix, at random if both are on."""
        from torchvision.transforms import v2

        kinds = ((v2.MixUp, self.config["task"]["mixup"]), (v2.CutMix, self.config["task"]["cutmix"]))
        return v2.RandomChoice([kind(alpha=alpha, num_classes=len(self.labels)) for kind, alpha in kinds if alpha])

    def compute_losses(self, batch: ClassificationBatch) -> dict[str, Tensor]:
        images, targets = batch.images.float(), batch.labels
        if self.mixes:
            images, targets = self.mixer(images, targets)
        logits = self.model(self.model.preprocess(images))
        found = {"class": self.model.loss(logits, targets)}
        if self.teacher:
            mix, temperature = self.config["distill"]["teacher_weight"], self.config["distill"]["temperature"]
            found["class"] = (1 - mix) * found["class"]
            # the same view for both, mixed images too (Beyer et al. 2022)
            found["teacher"] = mix * distillation(logits, self.teacher(images, batch), temperature)
        return found

    def update_metrics(self, batch: ClassificationBatch) -> None:
        scores = self.named_outputs(batch.images)["probabilities"]
        best = scores.topk(min(TOP, len(self.labels))).indices
        among = (best == batch.labels[:, None]).any(dim=1)
        index = torch.tensor(batch.rows, device=best.device)
        # without this, a class is found among outputs that are not finite
        found = best[:, 0].where(scores.isfinite().all(dim=1), torch.nan)
        # index in the split, true and best class, whether the true one is among the TOP
        columns = (index, batch.labels, found, among)
        self.measured.update(torch.stack([column.float() for column in columns], dim=1))
        self.mistakes.add(batch, scores)

    def compute_metrics(self, split: Split) -> dict[str, float]:
        matrix = self.confusion().double()
        shown = matrix.sum(dim=1)
        right = matrix.diagonal() / shown
        found = {
            "top1": float(matrix.trace() / matrix.sum()),
            "top5": float(self.rows()[:, 2].double().mean()),
            "class_mean": float(right[shown > 0].mean()),
        }
        if len(self.labels) <= PER_CLASS:
            found |= {f"top1/{name}": float(r) for name, r, n in zip(self.labels, right, shown, strict=True) if n}
        return found

    def rows(self) -> Tensor:
        """The measured images, each once (N, 3): true and best class, and 1 if the true one is among the TOP."""
        return self.measured_rows()[:, 1:].long()

    def confusion(self) -> Tensor:
        """The number of images (C, C) of each true class (rows) and best class."""
        truth, best, _ = self.rows().unbind(1)
        count = len(self.labels)
        return torch.bincount(truth * count + best, minlength=count**2).view(count, count)

    def reset_metrics(self) -> None:
        super().reset_metrics()
        self.mistakes.clear()

    def figures(self) -> dict[str, Tensor]:
        from tasks.classification.figures import confusion_figure
        from tasks.engine.plots import render_figure

        confusion = render_figure(confusion_figure(self.confusion().numpy(), self.labels))
        mistakes = self.mistakes.page(self.labels)
        return {"confusion": confusion} | ({} if mistakes is None else {"mistakes": mistakes})

    def ground_truth(self, batch: ClassificationBatch) -> list[dict[str, Any]]:
        return [{"classes": [{"label": self.labels[i]}]} for i in batch.labels.tolist()]
