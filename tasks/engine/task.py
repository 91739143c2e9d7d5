"""The base class of all tasks: optimizer and schedule, logging, checkpoint contents."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from backbones.base import Backbone, Normalization, no_decay_parameters, scaled_resolution
from backbones.errors import UserError, first_line
from backbones.mobilenet_v1 import fold_norms
from backbones.weights import unfold_at_first_batch
from data.base import Split, SuiteData
from data.crops import center_view, resize_square
from tasks.engine.checkpoint import CHECKPOINT_VERSION, load_checkpoint, resolved_settings, with_own_layers
from tasks.engine.figures import log_image, to_pil, to_tensor
from tasks.engine.model import Model
from tasks.engine.multitask_config import input_side, is_demo, tasks_of
from tasks.engine.optimizer import build_optimizer, group_parameters
from tasks.engine.options import locate, result_type
from tasks.engine.schedule import lr_factor

if TYPE_CHECKING:
    from lightning import LightningModule as Module

    from tasks.engine.budget import Budget
else:  # it becomes a LightningModule when a Trainer takes it: tasks.engine.lightning
    from torch.nn import Module

LOWEST_LR = 1e-3  # share of the peak
PRETRAINED_LR_SCALE = 0.1  # at the full rate, a pretrained backbone forgets its features


class TaskModule(Module):
    """A deployable `model` with its training and evaluation.

    A task defines `build_model`, `build_metrics`, `compute_losses`, `update_metrics`, `compute_metrics`,
    `reset_metrics` and `ground_truth`. How results are computed and drawn follows from its option in
    conf/task (see tasks.engine.results). It is a plain module until a Trainer takes it (tasks.engine.lightning), so
    that prediction, export and cost counting import neither Lightning nor torchmetrics.
    """

    primary: ClassVar[str]  # the metric that selects the best checkpoint
    mode: ClassVar[Literal["max", "min"]] = "max"  # whether higher or lower is better
    published_classes: ClassVar[int] = 0  # in the paper's data set, for counting costs without data
    closed_set: ClassVar[bool] = True  # whether it can only be tested on data with the labels it knows
    pairwise_metrics: ClassVar[bool] = False  # whether its metrics compare images of a split with each other
    budget: "Budget | None" = None  # length and progress of the training, set by a run
    hyperparameters: list[dict[str, Any]]  # of the optimizer's parameter groups, from the settings
    head_is_pretrained: bool = False  # whether the weights it starts from include its head
    asks_teacher: bool = True  # false if only a checkpoint names the teacher
    model: Model

    def __init__(
        self,
        config: dict[str, Any],
        labels: Sequence[str],
        *,
        load_weights: bool = True,
        resolved: Mapping[str, Any] | None = None,
        join: Callable[[Backbone], Backbone] | None = None,
    ) -> None:
        """`resolved` has the values that the backbone chose earlier for null settings (see `build_backbone`), for one
        that loads no weights. `join` makes it share layers with the backbones of other tasks, in a multi-task run.
        """
        super().__init__()
        wanted = config["task"].get("num_classes")  # of tasks that have classes
        if wanted not in (None, len(labels)):
            raise UserError(f"task.num_classes={wanted}, but the data has {len(labels)} classes")
        self._begin(config, labels, load_weights, resolved)
        self.join = join
        self.model = self.build_model().to(memory_format=torch.channels_last)
        self.join = None  # it refers to other tasks' layers
        self.set_backbone_frozen(config["trainer"]["freeze_backbone"])  # before DDP records the trainable parameters
        self.model.train()  # Lightning warns of layers in eval mode when training starts
        if config["trainer"]["bn_momentum"]:
            for module in self.model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = config["trainer"]["bn_momentum"]
        if config["trainer"]["compile"]:
            self.model.compile()  # in place, so that checkpoint keys stay as they are

    def _begin(
        self, config: dict[str, Any], labels: Sequence[str], load_weights: bool, resolved: Mapping[str, Any] | None
    ) -> None:
        """Sets what building the network needs."""
        self.config, self.resolved, self.labels = config, dict(resolved or {}), list(labels)
        self.result_type = result_type(config["groups"]["task"])
        self.resolution = scaled_resolution(input_side(config), config["backbone"]["rho"])
        self.load_weights = load_weights
        self.last_metrics: dict[str, float] = {}

    @classmethod
    def published_labels(cls, config: Mapping[str, Any]) -> list[str]:
        """Placeholder labels for counting costs, as many as `task.num_classes`, else as the paper's data set has."""
        return [str(i) for i in range(config["task"].get("num_classes") or cls.published_classes)]

    @classmethod
    def data_settings(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Data settings that follow from the task's settings, such as the names of its teacher's outputs."""
        return {}

    def check(self, data: SuiteData) -> None:
        """Loads what training needs besides the data, such as a teacher, before the run folder is created.

        Raises:
            UserError: the teacher cannot be obtained, or settings do not fit the data.
        """

    def build_model(self) -> Model:
        """The network: preprocess, forward, postprocess and loss, without Lightning."""
        raise NotImplementedError("a task defines build_model")

    def build_metrics(self) -> None:
        """Creates the metrics when a Trainer takes the task: once, before any of the methods below."""

    def compute_losses(self, batch: Any) -> dict[str, Tensor]:
        """Named scalar losses of a batch; their sum is minimised."""
        raise NotImplementedError("a task defines compute_losses")

    def update_metrics(self, batch: Any) -> None:
        """Adds a validation batch to the metrics."""
        raise NotImplementedError("a task defines update_metrics")

    def compute_metrics(self, split: Split) -> dict[str, float]:
        """Metrics over all batches since `reset_metrics`; every process calls it."""
        raise NotImplementedError("a task defines compute_metrics")

    def reset_metrics(self) -> None:
        """Resets the metrics."""
        raise NotImplementedError("a task defines reset_metrics")

    def figures(self) -> dict[str, Tensor]:
        """Figures of a validation by name, (3, H, W) uint8; every process calls it before `reset_metrics`."""
        return {}

    def prepare_image(self, image: Tensor) -> Tensor:
        """The model's input (3, R, R) for a decoded image (3, H, W) uint8: with `data.center_crop`, the central square
        of that share of the shorter side, else the whole image, resized without keeping its aspect ratio.
        """
        share = self.config["data"].get("center_crop")
        return center_view(image, share, self.resolution) if share else resize_square(image, self.resolution)

    @property
    def data(self) -> Any:
        """The data set that a Trainer gives this task: one of its own class."""
        return cast(Any, self.trainer).datamodule

    @property
    def view_side(self) -> int:
        """Pixels that the shorter side of a decoded image must have for `prepare_image` not to enlarge it."""
        return math.ceil(self.resolution / (self.config["data"].get("center_crop") or 1))

    def named_outputs(self, images: Tensor) -> dict[str, Tensor]:
        """What `Model.postprocess` gives for uint8 images (B, 3, R, R), by the names of the model's `export_spec`."""
        return self.model.named(self.model.postprocess(self.model(self.model.preprocess(images))))

    def predict(self, images: Tensor, sizes: Tensor) -> list[dict[str, Any]]:
        """Predictions for uint8 images (B, 3, R, R) whose files have (height, width) `sizes` (B, 2): plain
        values, in pixels of the upright image.
        """
        named = self.named_outputs(images).items()
        outputs = {name: (x.float() if x.is_floating_point() else x).cpu() for name, x in named}
        facts = {"labels": self.labels, "input": {"size": self.resolution}, **self.result_settings()}
        return [
            self.result_type.from_outputs({name: x[i].numpy() for name, x in outputs.items()}, facts, (height, width))
            for i, (height, width) in enumerate(sizes.tolist())
        ]

    def draw(self, image: Tensor, prediction: dict[str, Any]) -> Tensor:
        """An image (3, H, W) uint8, at its file's size, with its prediction, or the ground truth, drawn on it."""
        return to_tensor(self.result_type(prediction, to_pil(image), self.labels).draw())

    def result_settings(self) -> dict[str, Any]:
        """Plain values that `Result.to_plain` needs besides the outputs; an export's model.json keeps them."""
        threshold = self.config["task"].get("draw_threshold")
        return {} if threshold is None else {"postprocess": {"draw_threshold": threshold}}

    def export_metadata(self) -> dict[str, Any]:
        """Task-specific entries of an export's model.json, as plain values."""
        return {}

    def ground_truth(self, batch: Any) -> list[dict[str, Any]]:
        """The labels of a batch in the form of `predict`'s results."""
        raise NotImplementedError("a task defines ground_truth")

    def load_initial_weights(self, path: str) -> dict[str, Tensor]:
        """The tensors in the file `path` of the setting `ckpt`, by the names of this module's state dict.

        Raises:
            UserError: the file cannot be read, or is of another task.
        """
        content = load_checkpoint(path, task=self.config["task"]["name"])
        return self.for_own_classes(content["state_dict"], content["suite"]["labels"], path)

    def for_own_classes(self, state: dict[str, Tensor], labels: Sequence[str], source: str) -> dict[str, Tensor]:
        """`state`, of a module with `labels`; if they differ, with this module's own tensors in its class layers."""
        return state if self.has_classes(labels) else with_own_layers(self, self.class_layers(), state, source)

    def has_classes(self, labels: Sequence[str]) -> bool:
        """Whether its outputs are for these classes, in this order."""
        return self.labels == [*labels]

    def class_layers(self) -> list[nn.Module]:
        """The layers with outputs for each class, which only fit the same classes."""
        return self.model.class_layers()

    def checkpoint_settings(self) -> dict[str, Any]:
        """The values that the backbone of `ckpt` chose for null settings, which its weights require."""
        return resolved_settings(self.config["ckpt"], self.config)

    def build_backbone(self, strides: Sequence[int]) -> Backbone:
        """The configured backbone with feature maps at `strides`. Its normalization, and the values that it chooses for
        null settings, are kept in `resolved`; the configuration is not changed.
        """
        settings = self.config["backbone"] | self.resolved
        settings = {k: v for k, v in settings.items() if k not in ("rho", "normalization")}
        before = self.checkpoint_settings() if self.load_weights and self.config["ckpt"] else {}
        settings |= {k: v for k, v in before.items() if settings.get(k, v) is None}
        if not self.load_weights:
            settings |= {"weights": None, "pretrained": False}
        elif settings.get("pretrained") == "auto" and (self.config["ckpt"] or is_demo(self.config)):
            settings["pretrained"] = False
        backbone: Backbone = locate(self.config, "backbone")(**settings, strides=strides, resolution=self.resolution)
        if self.load_weights and self.config["trainer"]["freeze_early_layers"] and not backbone.early_layers():
            raise UserError(
                f"trainer.freeze_early_layers=true: backbone={self.config['groups']['backbone']} does not define its "
                "early layers; leave this setting out"
            )
        if normalization := self.resolved.get("normalization") or before.get("normalization"):
            backbone.normalization = Normalization.of(normalization)
        normalization = [list(row) for row in backbone.normalization]
        begun = {k: v for k, v in before.items() if k == "pretrained"}  # how the run of `ckpt` started
        self.resolved = backbone.resolved | begun | self.resolved | {"normalization": normalization}
        return self.join(backbone) if self.join else backbone

    def facts(self) -> dict[str, Any]:
        """Task-specific entries of metrics.json."""
        return {}

    def nonfinite_loss(self) -> str:
        """The name of the loss that is not finite."""
        return "the loss"

    def batches_to_plot(self, batch: Any, batch_index: int) -> Iterator[tuple["TaskModule", Any]]:
        """What to draw of a validation batch: tasks, each with its batch."""
        if not batch_index:
            yield self, batch

    def training_step(self, batch: Any, _: int) -> Tensor:
        losses = self.compute_losses(batch)
        total = torch.stack(list(losses.values())).sum()
        self.log("train/loss", total.detach(), prog_bar=True)
        self.log_dict({f"train/{name}_loss": value.detach() for name, value in losses.items()})
        return total

    def validation_step(self, batch: Any, _: int) -> None:
        self.update_metrics(batch)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def _log_metrics(self, split: Split) -> None:
        self.last_metrics = self.compute_metrics(split)
        if split == "val" and self.trainer.logger is not None:
            for name, image in self.figures().items():
                log_image(self.trainer, name, image)
        self.reset_metrics()
        self.last_metrics["primary"] = self.last_metrics[self.primary]
        self.log_dict({f"{split}/{name}": value for name, value in self.last_metrics.items() if name != "primary"})
        self.log("metric/primary", self.last_metrics["primary"], prog_bar=True)

    def on_train_start(self) -> None:
        for layers in self.model.backbone_layers():
            unfold_at_first_batch(layers)

    def on_train_epoch_start(self) -> None:
        self.set_backbone_frozen(self.config["trainer"]["freeze_backbone"])

    def set_backbone_frozen(self, frozen: bool) -> None:
        """Freezes the backbone, including its normalization's statistics, or unfreezes it. If its early layers stay
        frozen, their statistics are still updated: with those of ImageNet, AP fell by a fifth on playing cards.
        """
        for module in self.model.backbone_layers():
            module.requires_grad_(not frozen)
            module.train(not frozen)
        freeze_early = self.config["trainer"]["freeze_early_layers"]
        if freeze_early is None:
            freeze_early = self.has_weights
        if freeze_early:
            for layer in self.model.backbone.early_layers():
                layer.requires_grad_(False)

    def backbone_lr_scale(self) -> float:
        """The backbone's learning rate relative to that of the other layers."""
        scale: float | None = self.config["trainer"]["backbone_lr_scale"]
        if scale is not None:
            return scale
        return PRETRAINED_LR_SCALE if self.has_weights else 1.0

    @property
    def has_weights(self) -> bool:
        """Whether the backbone started from trained weights."""
        backbone = self.config["backbone"] | self.resolved
        return bool(backbone.get("weights") or self.config["ckpt"]) or backbone.get("pretrained") is True

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The optimizer's parameter groups, by weight decay and learning rate."""
        settings, scale = self.config["trainer"], self.backbone_lr_scale()
        no_decay = no_decay_parameters(self.model)
        backbone = {p for module in self.model.backbone_layers() for p in module.parameters()}
        return group_parameters(
            (p, 0.0 if p in no_decay else settings["weight_decay"], settings["lr"] * (scale if p in backbone else 1))
            for p in self.model.parameters()
            if not (settings["freeze_backbone"] and p in backbone)
        )

    def configure_optimizers(self) -> Any:
        settings = self.config["trainer"]
        optimizer = build_optimizer(self.parameter_groups(), settings)
        # a resumed run replaces them in the optimizer by its checkpoint's, even if the settings have changed
        self.hyperparameters = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
        steps = float(self.trainer.estimated_stepping_batches)

        def factor(step: int) -> float:
            done = self.budget.progress(step, steps) if self.budget else (step + 0.5) / max(1.0, steps)
            return max(LOWEST_LR, lr_factor(done, settings["warmup_fraction"]))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        # Lightning refuses to clip with fused optimizers, although this is only wrong with a gradient scaler.
        nn.utils.clip_grad_norm_(self.parameters(), self.config["trainer"]["grad_clip"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what predict and export need: plain values, so that it loads with weights_only=True, and options by
        name, so that a file cannot name code.
        """
        checkpoint["suite"] = {
            "version": CHECKPOINT_VERSION,
            "task": self.config["task"]["name"],
            "config": self.config,
            "labels": self.labels,
            "resolution": self.resolution,
            "backbone": self.resolved,
            "metrics": self.last_metrics,
            "versions": {name: version(name) for name in ("torch", "torchvision", "lightning")},
        }


def restore(checkpoint: dict[str, Any], teacher: str | None = None) -> TaskModule:
    """The task of a checkpoint with its (averaged) weights, for inference only. A teacher is used only if it is
    given here, and without a cache.

    Raises:
        UserError: it contains only a backbone, or weights of another network than its settings describe; a teacher is
            given to a task that does not use one.
    """
    suite = checkpoint["suite"]
    if suite["task"] == "backbone":
        raise UserError("the file contains only a backbone; start a task from it with backbone.weights=<file>")
    config = copy.deepcopy(suite["config"])
    if teacher is not None and not any("distill" in own for own in tasks_of(config).values()):
        raise UserError(f"teacher={teacher}: task={suite['task']} does not use a teacher")
    for own in (config, *tasks_of(config).values()):
        own["trainer"]["compile"] = False  # it pays off only in training
    if "parts" in config:
        config["multitask"]["add"] = None  # all tasks are evaluated, not only the added one
    try:
        module: TaskModule = locate(config, "task")(
            config, suite["labels"], load_weights=False, resolved=suite["backbone"]
        )
        module.load_state_dict(checkpoint["state_dict"])
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
        raise UserError(
            f"the checkpoint's weights, labels and settings do not match: {first_line(error):.200}"
        ) from error
    for part in module.modules():
        if isinstance(part, TaskModule):
            part.asks_teacher = teacher is not None
            if teacher is not None and "distill" in part.config:
                part.config |= {"teacher": teacher, "distill": part.config["distill"] | {"cache": None}}
    fold_norms(module.model)
    return module.eval()
