"""Helpers for the metrics of several tasks."""

import torch
from torch import Tensor


def unique_rows(index: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted unique values, and the first index of each: samplers of several processes repeat some images."""
    values, inverse = torch.unique(index, return_inverse=True)
    first = torch.full((len(values),), len(index)).scatter_reduce(0, inverse, torch.arange(len(index)), "amin")
    return values, first


def each_once(measured: Tensor) -> Tensor:
    """The rows (N, M) without those of repeated images: the first column is an image's index in the split, which also
    repeats where an unreadable image was replaced by the next. The images of a stream, of index -1, are all kept.
    """
    index = measured[:, 0]
    index = index.where(index >= 0, -1.0 - torch.arange(len(index)))
    return measured[unique_rows(index)[1]]
