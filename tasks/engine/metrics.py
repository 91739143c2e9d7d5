"""Helpers for the metrics of several tasks."""

import torch
from torch import Tensor

from backbones.errors import UserError


class RowMetrics:
    """Metrics computed from a row of numbers per image, the first of which is its index in the split.

    It comes first among the bases of a task, whose `update_metrics` adds rows (B, M) to `measured`.
    """

    def build_metrics(self) -> None:
        from torchmetrics.aggregation import CatMetric

        self.measured = CatMetric(nan_strategy="disable")

    def measured_rows(self) -> Tensor:
        """The row of each measured image (N, M), on the CPU.

        Raises:
            UserError: a value is not finite.
        """
        return first_per_image(self.measured.compute().float().cpu())

    def reset_metrics(self) -> None:
        self.measured.reset()


def check_finite(finite: bool) -> None:
    """Raises UserError unless all outputs that are measured are `finite`."""
    if not finite:
        raise UserError("the network's outputs are not finite; lower trainer.lr, or try trainer.precision=32")


def first_per_image(measured: Tensor) -> Tensor:
    """The first row of each image among rows (N, M), sorted by the first column, the image's index in the split.

    Images are repeated by the samplers of several processes, and where an unreadable one is replaced by the next. Those
    of a stream, of index -1, are all kept.

    Raises:
        UserError: a value is not finite.
    """
    check_finite(bool(measured.isfinite().all()))
    places = torch.arange(len(measured))
    index = measured[:, 0].where(measured[:, 0] >= 0, -1.0 - places)
    values, inverse = torch.unique(index, return_inverse=True)
    return measured[torch.full((len(values),), len(index)).scatter_reduce(0, inverse, places, "amin")]
