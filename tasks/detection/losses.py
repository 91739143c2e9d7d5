"""Losses of detectors, summed over a batch unless a shape is given; shapes (B, A, ...) as in anchors.py."""

import torch
import torch.nn.functional as F
from torch import Tensor


def sigmoid_focal(logits: Tensor, classes_BA: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss (Lin et al. 2017) of logits (B, A, C) whose target is one-hot in C, or zero where class is -1."""
    targets = one_hot(classes_BA, logits.shape[-1], logits.dtype)
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    probability = logits.sigmoid()
    wrong = probability + targets - 2 * probability * targets  # 1 - p_t
    wrong = wrong.clamp(min=1e-12)  # at 0 the gradient of a power below 1 is infinite
    weight = (1 - alpha) + (2 * alpha - 1) * targets
    return (weight * wrong.pow(gamma) * loss).sum()


def one_hot(classes_BA: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """(B, A, C), all zero where the class is -1."""
    columns = torch.arange(num_classes, device=classes_BA.device)
    return (classes_BA[..., None] == columns).to(dtype)


def hard_negative_cross_entropy(logits: Tensor, classes_BA: Tensor, ratio: float) -> Tensor:
    """Sigmoid cross-entropy of logits (B, A, C) on the positives and, in each image, `ratio` times as many of
    the negatives: those with the highest loss (SSD, section 2.2). Class 0 is background.
    """
    targets = one_hot(classes_BA, logits.shape[-1], logits.dtype)
    loss_BA = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=-1)
    positive_BA = classes_BA > 0
    quota_B1 = (positive_BA.sum(dim=1, keepdim=True) * ratio).clamp(min=1)
    hardest_BA = loss_BA.detach().masked_fill(positive_BA, -1).argsort(dim=1, descending=True)
    rank_BA = torch.empty_like(hardest_BA).scatter_(
        1, hardest_BA, torch.arange(loss_BA.shape[1], device=loss_BA.device).expand_as(hardest_BA)
    )
    return (loss_BA * (positive_BA | (rank_BA < quota_B1))).sum()


def varifocal(logits: Tensor, targets: Tensor) -> Tensor:
    """Varifocal loss (Zhang et al. 2021): cross-entropy with the quality as target (0 for other classes), weighted by
    this quality for positives and by 0.75 p^2 for negatives. Logits and targets are (B, A, C).
    """
    weight = 0.75 * logits.detach().sigmoid().pow(2) * (targets == 0) + targets
    return F.binary_cross_entropy_with_logits(logits, targets, weight, reduction="sum")


def distribution_focal(logits: Tensor, distances: Tensor) -> Tensor:
    """Cross-entropy (P, 4) of each side's distribution (P, 4, bins) with the two bins around its distance (P, 4)
    (Generalized Focal Loss, section 3.2).
    """
    lower = distances.floor()
    log_probability = logits.log_softmax(dim=-1)
    left, right = (log_probability.gather(-1, (lower.long() + i)[..., None])[..., 0] for i in (0, 1))
    return -((lower + 1 - distances) * left + (distances - lower) * right)
