"""What an option of conf/ stands for. Only this machine's own files say it, never a checkpoint."""

import importlib
from collections.abc import Mapping
from typing import Any

from backbones.errors import UserError
from tasks.engine.config import target

PACKAGES = ("backbones.", "data.", "tasks.")


def locate(config: Mapping[str, Any], group: str) -> Any:
    """The class or function that the option chosen in a group stands for. A configuration holds the option's name
    alone; this machine's conf/ defines what it means, and it is code of this suite.
    """
    name = target(config["groups"], group)
    module, _, attribute = name.rpartition(".")
    found = getattr(importlib.import_module(module), attribute, None) if name.startswith(PACKAGES) else None
    if getattr(found, "__module__", None) != module:  # what a module imports is not its own
        raise UserError(f"conf/{group}: _target_ {name} is no class or function of {', '.join(PACKAGES)}")
    return found


def build(config: Mapping[str, Any], group: str, **extra: Any) -> Any:
    """Calls what the option of a group stands for with the group's settings."""
    return locate(config, group)(**(config[group] | extra))
