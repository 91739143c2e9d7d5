"""Helpers for the metrics of several tasks."""

import torch
from torch import Tensor


def unique_rows(index: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted distinct values, and where each comes first: samplers of several processes repeat some images."""
    values, inverse = torch.unique(index, return_inverse=True)
    first = torch.full((len(values),), len(index)).scatter_reduce(0, inverse, torch.arange(len(index)), "amin")
    return values, first
