"""Resolves options of conf/ to classes and functions. Only this machine's own files name these, never a
checkpoint or an export."""

import importlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import yaml

from backbones.errors import UserError
from tasks.engine.config import CONF, options
from tasks.engine.results import Result

PACKAGES = ("backbones.", "data.", "tasks.")


def locate(config: Mapping[str, Any], group: str) -> Any:
    """The class or function that the option chosen in a group stands for. A configuration holds the option's name
    alone; this machine's conf/ defines what it means, and it is code of this suite.

    Raises:
        UserError: no option of this group is chosen.
    """
    name = target(config["groups"], group)
    if name is None:
        raise UserError(f"{group} is not a group of this configuration")
    return _import(name, f"conf/{group}: _target_")


def result_type(task: str) -> type[Result]:
    """The class of a task's results; `Result`, which has outputs by name, if conf/task gives none."""
    name = target({"task": task}, "task", "_result_") if task in options("task") else None
    kind: type[Result] = _import(name, "conf/task: _result_") if name else Result
    return kind


def reports_scores(task: str) -> bool:
    """Whether a task's results leave out low scores (`draw_threshold`)."""
    return task in options("task") and "draw_threshold" in _file_of("task", task)


def target(groups: Mapping[str, str], group: str, key: str = "_target_") -> str | None:
    """The dotted name that the file of the option chosen in `group` gives under `key`: of the class or function that it
    stands for, or of the class of a task's results (`_result_`). None where it gives none.
    """
    option = groups.get(group)
    found = _file_of(group, option).get(key) if option in options(group) else None
    return None if found is None else str(found)


@lru_cache
def _file_of(group: str, option: str | None) -> dict[str, Any]:
    """What an option's file, and those in its `defaults`, set in its group. Composing them with Hydra would take a
    hundred times as long.
    """
    content = yaml.safe_load((CONF / group / f"{option}.yaml").read_text()) or {}
    bases = [name for name in content.get("defaults", []) if isinstance(name, str) and name != "_self_"]
    found: dict[str, Any] = {}
    for name in bases:
        found |= _file_of(group, name)
    return found | content.get(group, content)  # a file may set other groups as well


def _import(name: str, source: str) -> Any:
    module, _, attribute = name.rpartition(".")
    found = getattr(importlib.import_module(module), attribute, None) if name.startswith(PACKAGES) else None
    if getattr(found, "__module__", None) != module:  # what a module imports is not its own
        raise UserError(f"{source} {name} is not a class or function of {', '.join(PACKAGES)}")
    return found
