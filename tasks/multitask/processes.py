"""A run on several processes: gradients are averaged once a step, after the batches of all tasks.

DistributedDataParallel averages in each backward pass, of which a step has several; this is turned off.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def leave_out_averages(trainer: Any) -> None:
    """Turns off DistributedDataParallel's own averaging of gradients, in a Lightning Trainer."""
    from torch.nn.parallel import DistributedDataParallel

    if isinstance(trainer.model, DistributedDataParallel):
        trainer.model.require_backward_grad_sync = False
        trainer.model.broadcast_buffers = False


@torch.no_grad()
def average_gradients(module: nn.Module, processes: int) -> None:
    """Averages the gradients over the processes, which have had batches of the same tasks, and broadcasts the first
    one's batch normalization statistics, as DistributedDataParallel does.
    """
    if processes == 1:
        return
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    _together(gradients, lambda flat: (torch.distributed.all_reduce(flat), flat.div_(processes)))
    buffers = [b for b in module.buffers() if b.is_floating_point()]
    _together(buffers, lambda flat: torch.distributed.broadcast(flat, 0))


def _together(tensors: Sequence[Tensor], change: Callable[[Tensor], object]) -> None:
    """Changes tensors in place, all those of one dtype as one flat tensor."""
    for kind in {t.dtype for t in tensors}:
        own = [t for t in tensors if t.dtype == kind]
        flat = torch.cat([t.flatten() for t in own])
        change(flat)
        for tensor, part in zip(own, flat.split([t.numel() for t in own]), strict=True):
            tensor.copy_(part.view_as(tensor))
