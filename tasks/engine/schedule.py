"""How many epochs a run has, and its learning rate over them."""

import math
from collections.abc import Mapping
from typing import Any

FEWEST_EPOCHS, FEWEST_STEPS = 12, 1500  # where no length is given: enough for 100 images as for 100,000


def epochs_of(settings: Mapping[str, Any], steps_per_epoch: int, shift: int = 0) -> int:
    """The number of epochs that the trainer settings give, also for the learning rate's schedule; -1 if the training
    ends by time. `shift`: by how many steps those done would differ at today's number per epoch (see Budget).
    """
    if settings["minutes"]:
        return -1
    if settings["max_epochs"]:
        return int(settings["max_epochs"])
    if settings["steps"]:
        return max(1, math.ceil((settings["steps"] + shift) / steps_per_epoch))
    return max(FEWEST_EPOCHS, math.ceil((FEWEST_STEPS + shift) / steps_per_epoch))


def lr_factor(progress: float, warmup: float) -> float:
    """The learning rate as a share of its peak: a linear warm-up, then half a cosine. Both arguments are shares of the
    training.
    """
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / max(1e-9, 1 - warmup))))
