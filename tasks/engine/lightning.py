"""Turns tasks and data sets, which are plain classes, into Lightning's when a Trainer takes them.

Importing Lightning takes three times as long as importing torch, and only training and evaluation need it.
"""

import logging
from functools import cache
from typing import Any, cast

from lightning import LightningDataModule, LightningModule

from data.base import SuiteData
from tasks.engine.task import TaskModule


def for_trainer(part: TaskModule | SuiteData) -> Any:
    """A task, with all tasks inside it, or a data set, as a Trainer takes it: the same object, whose class now also
    inherits from Lightning's. A second call changes nothing.
    """
    if isinstance(part, SuiteData):
        _become(part, LightningDataModule)
        return part
    for module in part.modules():
        if isinstance(module, TaskModule) and _become(module, LightningModule):
            module.build_metrics()
    return part


def _become(part: Any, base: type) -> bool:
    """True if this call made the object an instance of `base` as well."""
    if isinstance(part, base):
        return False
    own = dict(part.__dict__)
    part.__class__ = _joined(type(part), base)  # type: ignore[arg-type]  # types are hashable
    cast(Any, base).__init__(part)
    part.__dict__.update(own)  # Lightning's `__init__` has cleared the layers
    return True


@cache
def _joined(kind: type, base: type) -> Any:
    """A subclass of both, with the first one's name."""
    return type(kind.__name__, (kind, base), {"__module__": kind.__module__, "__doc__": kind.__doc__})


def quiet_lightning() -> None:
    """Lets Lightning log warnings only, through the program's handlers; importing Lightning resets this."""
    for chatty in ("lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(chatty)
        logger.setLevel(logging.WARNING)
        logger.propagate = True
