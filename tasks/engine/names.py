"""Names that become folders, and names of a multi-task run's labels and metrics, <task>/<name>."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from backbones.errors import UserError

T = TypeVar("T")
PLAIN = re.compile(r"[\w.-]+")


def plain_name(name: Any, what: str) -> str:
    """A name that is one part of a path, as it is.

    Raises:
        UserError: it is not, or has other characters than letters, digits and . _ -
    """
    if not isinstance(name, str) or not PLAIN.fullmatch(name) or name in (".", ".."):
        allowed = "must consist of letters, digits, '.', '_' and '-', as it becomes the name of a folder"
        raise UserError(f"{what}={str(name)[:80]!r} {allowed}")
    return name


def run_name(stamp: str, backbone: Mapping[str, Any]) -> str:
    """The default name of a run."""
    alpha = backbone.get("alpha")
    return stamp if alpha is None else f"{stamp}-a{alpha:g}"


def run_folder(config: Mapping[str, Any]) -> Path:
    """The folder of a run that has a name."""
    return Path(config["paths"]["runs"]) / config["task"]["name"] / str(config["name"])


def check_names(config: Mapping[str, Any]) -> None:
    """Checks all names in a configuration that become folders. Raises UserError as `plain_name`."""
    if config["name"] is not None:
        plain_name(config["name"], "name")
    plain_name(config["task"]["name"], "task.name")
    for name in config["stages"] or ():
        plain_name(name, "stage")


def task_of(name: str) -> str:
    """The task of a label or metric of a multi-task run."""
    return name.partition("/")[0]


def labels_of(labels: Iterable[str], task: str) -> list[str]:
    """The labels of one task of a multi-task run, as the task alone has them."""
    return [label.partition("/")[2] for label in labels if label.startswith(f"{task}/")]


def metrics_of(metrics: Mapping[str, T], task: str) -> dict[str, T]:
    """The metrics of one task of a multi-task run, as the task alone has them."""
    return {name.partition("/")[2]: value for name, value in metrics.items() if name.startswith(f"{task}/")}
