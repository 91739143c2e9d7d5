"""The optimizer, its groups of parameters, and what it may leave out."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from backbones.errors import UserError


def check_frozen(settings: Mapping[str, Any], has_weights: bool) -> None:
    """Checks the trainer settings that freeze a backbone, which may start from trained weights.

    Raises:
        UserError: its random weights would never be trained.
    """
    if settings["freeze_backbone"] and not has_weights:
        raise UserError(
            "trainer.freeze_backbone=true freezes random weights: give backbone.weights= or backbone.pretrained=true, "
            "or ckpt="
        )


def group_parameters(rows: Iterable[tuple[nn.Parameter, float, float]]) -> list[dict[str, Any]]:
    """The optimizer's groups of parameters, each with its weight decay and learning rate."""
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for parameter, decay, lr in rows:
        group = groups.setdefault((decay, lr), {"params": [], "weight_decay": decay, "lr": lr})
        group["params"].append(parameter)
    return list(groups.values())


def build_optimizer(groups: list[dict[str, Any]], settings: Mapping[str, Any]) -> torch.optim.Optimizer:
    """The optimizer that the trainer settings name."""
    lr, momentum, fused = settings["lr"], settings["momentum"], str(settings["precision"]) != "16"
    if settings["optimizer"] == "adamw":
        return torch.optim.AdamW(groups, lr=lr, fused=fused)
    if settings["optimizer"] == "rmsprop":  # TensorFlow's, to which the paper's epsilon and decay apply
        from timm.optim import RMSpropTF

        return RMSpropTF(groups, lr=lr, alpha=0.9, eps=1.0, momentum=momentum)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=fused)
