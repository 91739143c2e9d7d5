"""Losses of classification; `targets_BC` are target probabilities (B, C)."""

import torch.nn.functional as F
from torch import Tensor


def target_probabilities(targets: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """(B, C) from class indices (B,) or, where images were mixed, from probabilities (B, C)."""
    if targets.ndim == 1:
        targets = F.one_hot(targets, num_classes)
    return targets.float() * (1 - smoothing) + smoothing / num_classes


def generalized_cross_entropy(logits: Tensor, targets_BC: Tensor, q: float) -> Tensor:
    """(1 - p ** q) / q (Zhang & Sabuncu 2018): cross-entropy as q -> 0, mean absolute error at q = 1.

    Images that the network confidently considers mislabelled have less weight than in cross-entropy.
    """
    # from the logarithm, as the gradient of p ** q is infinite at 0
    powers = (q * logits.float().log_softmax(dim=1)).exp()
    return (targets_BC * (1 - powers) / q).sum(dim=1).mean()


def distillation(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL divergence of the student from the teacher (Hinton et al. 2015), times T ** 2 so that its gradients keep
    their size at any temperature.
    """
    student, teacher = ((x.float() / temperature).log_softmax(dim=1) for x in (logits, teacher_logits))
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean") * temperature**2
