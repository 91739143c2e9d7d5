"""Names that become folders."""

import re
from collections.abc import Mapping
from typing import Any

from backbones.errors import UserError

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


def check_names(config: Mapping[str, Any]) -> None:
    """Checks all names in a configuration that become folders. Raises UserError as `plain_name`."""
    if config["name"] is not None:
        plain_name(config["name"], "name")
    plain_name(config["task"]["name"], "task.name")
    for name in config["stages"] or ():
        plain_name(name, "stage")
