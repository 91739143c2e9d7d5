"""Multi-task training: each task's own losses, metrics and images, on one backbone."""

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from backbones.base import no_decay_parameters
from backbones.errors import UserError
from data.base import Split, SuiteData
from tasks.engine.checkpoint import load_checkpoint
from tasks.engine.figures import log_image
from tasks.engine.multitask_config import is_demo, trained_tasks
from tasks.engine.names import labels_of, metrics_of, task_of
from tasks.engine.optimizer import group_parameters
from tasks.engine.options import locate
from tasks.engine.start import new_data
from tasks.engine.task import TaskModule
from tasks.multitask.data import JointBatch, JointData, naming
from tasks.multitask.model import JointModel, own_parameters
from tasks.multitask.processes import average_gradients, leave_out_averages
from tasks.multitask.sharing import Sharing

log = logging.getLogger(__name__)


class JointTask(TaskModule):
    """Trains several tasks; `primary` is the mean of their primary metrics, each as a share of its reference.

    A step has as many batches as there are tasks, drawn by the schedule. Each runs forward and backward before the
    next, so that memory is that of the largest; the gradients accumulate.
    """

    primary = "mean"
    closed_set: ClassVar[bool] = False  # each task handles its own labels
    parts: nn.ModuleDict

    def __init__(
        self,
        config: dict[str, Any],
        labels: Sequence[str],
        *,
        load_weights: bool = True,
        resolved: Mapping[str, Any] | None = None,
    ) -> None:
        """`labels` are those of all tasks, each after its task's name and a slash."""
        nn.Module.__init__(self)
        if config["multitask"]["add"] and load_weights:  # the weights come from ckpt, not from the backbone's source
            resolved, load_weights = load_checkpoint(config["ckpt"])["suite"]["backbone"], False
        self._begin(config, labels, load_weights, resolved)
        self.names, self.trained = list(config["parts"]), trained_tasks(config)
        self.kept: dict[str, float] = {}  # metrics of tasks that are not trained
        self.parts = self._build_parts()
        shared = config["multitask"]["balance"] == "uncertainty"
        self.log_variances = nn.Parameter(torch.zeros(len(self.names)), requires_grad=shared)
        self.register_buffer("culprit", torch.full((), -1), persistent=False)
        self.culprit: Tensor  # the first task whose loss was not finite, -1 while there is none
        if config["multitask"]["add"]:
            self._freeze_others()

    def _build_parts(self) -> nn.ModuleDict:
        """Each task as in its own run, but with shared backbone layers, whose weights are loaded for the first task
        that is not a demo.
        """
        settings, sharing = self.config["multitask"], Sharing()
        kinds = dict(zip(self.names, settings["patches"] or [settings["share"]] * len(self.names), strict=True))
        first = next((n for n in self.names if not is_demo(self.config["parts"][n])), self.names[0])
        first = self.names[0] if settings["patches"] else first
        found: dict[str, TaskModule] = {}
        for name in [first, *(n for n in self.names if n != first)]:
            own = self.config["parts"][name] | {"ckpt": self.config["ckpt"]}
            with naming(name):
                found[name] = locate(own, "task")(
                    own,
                    labels_of(self.labels, name),
                    load_weights=self.load_weights and name == first,
                    resolved=self.resolved,
                    join=partial(sharing.join, share=kinds[name]),
                )
            self.resolved = found[first].resolved
        return nn.ModuleDict({name: found[name] for name in self.names})

    def _freeze_others(self) -> None:
        own = own_parameters(dict(self.parts.items()))
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        for parameter in (p for name in self.trained for p in own[name]):
            parameter.requires_grad_(True)

    @property
    def model(self) -> JointModel:  # type: ignore[override]  # of the parts, as they are now
        """The tasks' networks as one."""
        parts = dict(self.each())
        return JointModel({n: p.model for n, p in parts.items()}, {n: p.resolution for n, p in parts.items()})

    def each(self, trained: bool = False) -> Iterator[tuple[str, TaskModule]]:
        """The tasks by name, or only the trained ones."""
        for name in self.trained if trained else self.names:
            yield name, cast(TaskModule, self.parts[name])

    @classmethod
    def published_labels(cls, config: Mapping[str, Any]) -> list[str]:
        return [
            f"{name}/{label}"
            for name, part in config["parts"].items()
            for label in locate(part, "task").published_labels(part)
        ]

    @classmethod
    def data_settings(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        parts = {}
        for name in trained_tasks(config):
            with naming(name):
                parts[name] = new_data(config["parts"][name])
        source = config["ckpt"]
        return {
            "parts": parts,
            "names": list(config["parts"]),
            "temperature": config["multitask"]["temperature"],
            "source": lambda: load_checkpoint(source)["suite"]["labels"],
        }

    def check(self, data: SuiteData) -> None:
        assert isinstance(data, JointData)
        for name, part in self.each(trained=True):
            with naming(name):
                part.check(data.parts[name])

    def load_initial_weights(self, path: str) -> dict[str, Tensor]:
        content = load_checkpoint(path, task=self.config["task"]["name"])
        self._keep_metrics(content)
        state: dict[str, Tensor] = dict(content["state_dict"])
        for name, part in self.each():
            prefix, labels = f"parts.{name}.", labels_of(content["suite"]["labels"], name)
            own = {k.removeprefix(prefix): tensor for k, tensor in state.items() if k.startswith(prefix)}
            own = part.for_own_classes(own, labels, f"{path}, {name}")
            state |= {prefix + k: tensor for k, tensor in own.items()}
        if added := self.config["multitask"]["add"]:  # its own layers start as the other tasks'
            for key, tensor in content["state_dict"].items():
                _, name, rest = key.split(".", 2) if key.startswith("parts.") else ("", "", "")
                if name != added and rest.startswith("model.backbone."):
                    state.setdefault(f"parts.{added}.{rest}", tensor)
        return state

    def _keep_metrics(self, checkpoint: Mapping[str, Any]) -> None:
        others = set(self.names) - set(self.trained)
        metrics = checkpoint["suite"]["metrics"]
        self.kept = {key: value for key, value in metrics.items() if task_of(key) in others}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["suite"]["metrics"] = self.kept | self.last_metrics  # before the first validation there are none

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._keep_metrics(checkpoint)

    def setup(self, stage: str) -> None:
        from tasks.multitask.attached import PartTrainer

        self.automatic_optimization = False  # a step has several backward passes
        data = self.data.parts
        for name, part in self.each():
            part.trainer = cast(Any, PartTrainer(self.trainer, name, data.get(name)))
            part.budget = self.budget
        for name, part in self.each(trained=True):
            with naming(name):
                if stage == "test" and part.closed_set:
                    data[name].use_labels(part.labels)
                part.setup(stage)
        if self.budget:  # a task may have planned for its own images
            self.budget.plan(self.trainer, self.data)

    def on_fit_start(self) -> None:
        for _, part in self.each(trained=True):
            part.on_fit_start()

    def on_train_start(self) -> None:
        for _, part in self.each(trained=True):
            part.on_train_start()

    def on_train_epoch_start(self) -> None:
        if self.config["multitask"]["add"]:
            self._hold_others()
        else:
            for _, part in self.each():
                part.set_backbone_frozen(self.config["trainer"]["freeze_backbone"])

    def _hold_others(self) -> None:
        """Keeps tasks that are not trained, and shared layers, unchanged, including their normalization statistics."""
        for _, part in self.each():
            part.eval()
        frozen = {m for name, part in self.each() if name not in self.trained for m in part.modules()}
        for _, part in self.each(trained=True):
            for module in part.modules():
                module.training = module not in frozen

    def on_train_batch_start(self, batch: Any, batch_index: int) -> None:
        """From `held_from` on, shared normalization uses its running statistics, as after training, instead of those of
        a single task's batch.
        """
        leave_out_averages(self.trainer)  # for this step: Lightning turns them on again after each
        assert self.budget
        done = self.budget.progress(self.trainer.global_step, float(self.trainer.estimated_stepping_batches))
        if done >= self.held_from:
            for layer in self.shared_norms():
                layer.eval()

    @property
    def held_from(self) -> float:
        """The share of the training after which shared statistics are frozen; by default 0 if pretrained, else 0.5."""
        share = self.config["multitask"]["hold_statistics"]
        return (0.0 if self.has_weights else 0.5) if share is None else float(share)

    def shared_norms(self) -> set[nn.Module]:
        """The batch normalization layers that two or more tasks share."""
        owners: dict[nn.Module, int] = {}
        for _, part in self.each():
            for layer in {m for m in part.modules() if isinstance(m, _BatchNorm)}:
                owners[layer] = owners.get(layer, 0) + 1
        return {layer for layer, count in owners.items() if count > 1}

    def training_step(self, batch: JointBatch, _: int) -> Tensor:
        optimizer = cast(Any, self.optimizers())
        optimizer.zero_grad()
        total = torch.zeros((), device=self.device)
        for name, own in batch.rows:
            part = cast(TaskModule, self.parts[name])
            losses = part.compute_losses(own)
            loss = self.balanced(name, torch.stack(list(losses.values())).sum())
            broken = (self.culprit < 0) & ~loss.detach().isfinite()
            self.culprit = torch.where(broken, self.names.index(name), self.culprit)
            with torch.autocast(self.device.type, enabled=False):
                self.manual_backward(loss)
            total += loss.detach().float()
            self.log_dict({f"train/{name}/{key}_loss": value.detach() for key, value in losses.items()})
        average_gradients(self, self.trainer.world_size)
        optimizer.step()
        cast(Any, self.lr_schedulers()).step()
        self.log("train/loss", total, prog_bar=True)
        return total

    def balanced(self, name: str, loss: Tensor) -> Tensor:
        """A task's loss with its weight from the settings and its learned weight."""
        settings, place = self.config["multitask"], self.names.index(name)
        if settings["weights"]:
            loss = loss * settings["weights"][place]
        if settings["balance"] == "uncertainty":  # Kendall et al. 2018, arXiv 1705.07115
            loss = loss * torch.exp(-self.log_variances[place]) + 0.5 * self.log_variances[place]
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clips gradients here, after a gradient scaler has unscaled them, not at the end of `training_step`."""
        nn.utils.clip_grad_norm_(self.parameters(), self.config["trainer"]["grad_clip"])

    def nonfinite_loss(self) -> str:
        place = int(self.culprit)
        return f"the loss of {self.names[place]}" if place >= 0 else "the loss"

    def validation_step(self, batch: JointBatch, _: int, dataloader_idx: int = 0) -> None:
        for name, own in batch.rows:
            cast(TaskModule, self.parts[name]).update_metrics(own)

    test_step = validation_step

    def batches_to_plot(self, batch: JointBatch, batch_index: int) -> Iterator[tuple[TaskModule, Any]]:
        if batch_index:
            return
        for name, own in batch.rows:
            yield cast(TaskModule, self.parts[name]), own

    def compute_metrics(self, split: Split) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, part in self.each():
            if name in self.trained:
                with naming(name):
                    part.last_metrics = part.compute_metrics(split)
            own = part.last_metrics if name in self.trained else metrics_of(self.kept, name)
            found |= {f"{name}/{key}": value for key, value in own.items()}
        return {"mean": self.mean(found)} | found

    def mean(self, metrics: Mapping[str, float]) -> float:
        """The mean of the tasks' primary metrics, each as a share of its reference, by default 1. An error x (lower is
        better) counts as reference / x, without a reference as 1 / (1 + x).
        """
        references = self.config["multitask"]["references"] or [None] * len(self.names)
        found = []
        for (name, part), reference in zip(self.each(), references, strict=True):
            value = metrics.get(f"{name}/{part.primary}", float("nan"))
            if part.mode == "max":
                found.append(value / (reference or 1.0))
            else:
                found.append(reference / max(value, 1e-9) if reference else 1 / (1 + value))
        return sum(found) / len(found)

    def reset_metrics(self) -> None:
        for _, part in self.each(trained=True):
            part.reset_metrics()

    def figures(self) -> dict[str, Tensor]:
        """Writes each task's figures to its own folder; the run has none."""
        for _, part in self.each(trained=True):
            for name, image in part.figures().items():
                log_image(part.trainer, name, image)
        return {}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Shared layers have the run's learning rate and weight decay, the other layers those of their task."""
        no_decay, own = no_decay_parameters(self), own_parameters(dict(self.parts.items()))
        owner = {parameter: name for name, found in own.items() for parameter in found}
        backbone = {p for _, part in self.each() for m in part.model.backbone_layers() for p in m.parameters()}
        rows = []
        for parameter in self.parameters():
            name = owner.get(parameter)
            settings = self.config["parts"][name]["trainer"] if name else self.config["trainer"]
            frozen = settings["freeze_backbone"] and parameter in backbone
            if frozen or not parameter.requires_grad:
                continue
            decay = 0.0 if parameter in no_decay else settings["weight_decay"]
            rows.append((parameter, decay, settings["lr"] * (self.backbone_lr_scale() if parameter in backbone else 1)))
        return group_parameters(rows)

    def facts(self) -> dict[str, Any]:
        """The entry of each task in metrics.json: as for a single-task run, plus the number of its own parameters."""
        own = own_parameters(dict(self.parts.items()))
        parts = {}
        for name, part in self.each():
            cost = copy.deepcopy(part.model).cost(part.resolution)
            parts[name] = {
                "primary": part.primary,
                "mode": part.mode,
                "cost": cost.millions,
                "own_params_m": sum(p.numel() for p in own[name]) / 1e6,
                "classes": len(part.labels),
                "resolution": part.resolution,
                "pretrained": self.resolved.get("pretrained"),
                "phone_format": part.model.phone_format,
            }
        return {"parts": parts}

    def predict(self, images: Tensor, sizes: Tensor) -> list[dict[str, Any]]:
        raise UserError("a multi-task run predicts with each of its tasks, on its own view of an image")
