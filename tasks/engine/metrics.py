"""Helpers for the metrics of several tasks."""

import torch
from torch import Tensor


def unique_rows(index: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted unique values, and the first index of each: samplers of several processes repeat some images."""
    values, inverse = torch.unique(index, return_inverse=True)
    first = torch.full((len(values),), len(index)).scatter_reduce(0, inverse, torch.arange(len(index)), "amin")
    return values, first
