"""Checks settings against their schema, which is the group's YAML file itself: only its keys are valid, a default
gives the type, and `allowed` an interval such as "(0, 2]", a list of choices, or one of `SHAPES`.
"""

import difflib
import re
from collections.abc import Sequence
from typing import Any

from backbones.errors import UserError

MISSING = "???"
INTERVAL = re.compile(r"([\[(])(\S+), (\S+)([\])])")
SHAPES = {
    "name": "a name or null",
    "names": "a list of names",
    "numbers": "a list of numbers",
    "stages": "names of stages, each with a list of settings",
}
HIDDEN = ("allowed", "_target_", "_result_")  # keys of the YAML files that are not settings
PLAIN = (type(None), bool, int, float, str)


def check(defaults: dict[str, Any], config: dict[str, Any], path: str = "") -> None:
    """Checks all settings of `config`. A number where text is expected, such as a name or path, is converted in place.

    Raises:
        UserError: a setting is unknown, missing, or has a value that is not allowed.
    """
    limits = config.get("allowed", {})
    for name, value in config.items():
        key = f"{path}{name}"
        if name in HIDDEN:
            continue
        if name not in defaults:
            raise UserError(f"unknown setting {key!r}{suggestion(key, [f'{path}{k}' for k in defaults])}")
        if isinstance(defaults[name], dict) != isinstance(value, dict) and limits.get(name) != "stages":
            raise UserError(
                f"{key}={value!s:.200}: {'has settings of its own' if defaults[name] else 'has no settings'}"
            )
        if key == "task.name" and value != defaults[name]:
            raise UserError(f"task.name={value} cannot be set; choose the task with task=")
        if isinstance(value, dict) and isinstance(defaults[name], dict):
            check(defaults[name], value, f"{key}.")
        elif name not in limits and defaults[name] in (None, MISSING) and isinstance(value, int | float):
            config[name] = str(value)
        elif value == MISSING:
            raise UserError(f"give {key}=<value>; `--help` explains it")
        elif problem := _problem(value, defaults[name], limits.get(name)):
            raise UserError(f"{key}={value!s:.200}: {problem}")


def _problem(value: Any, default: Any, limit: Any) -> str | None:
    """What is wrong with a value, given its default and its limit."""
    if isinstance(limit, str) and limit in SHAPES:
        return None if value is None or shaped(value, limit) else f"must be {SHAPES[limit]}"
    if isinstance(limit, list):
        return _choice_problem(value, default, limit)
    if value == default and type(value) is type(default):
        return None
    return _type_problem(value, default) if limit is None else _interval_problem(value, default, limit)


def _choice_problem(value: Any, default: Any, choices: list[Any]) -> str | None:
    words = ["null" if choice is None else str(choice) for choice in choices]
    if str("null" if value is None else value) in words:
        return None
    if any(INTERVAL.fullmatch(word) and not _problem(value, default, word) for word in words):
        return None
    return f"choose from {', '.join(words)}"


def _interval_problem(value: Any, default: Any, interval: str) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"must be a number in {interval}"
    found = INTERVAL.fullmatch(interval)
    assert found, interval
    opening, low, high, closing = found.groups()
    above = value > float(low) if opening == "(" else value >= float(low)
    below = value < float(high) if closing == ")" else value <= float(high)
    if not (above and below):
        return f"must be in {interval}"
    # numbers that may be replaced by null or auto are counts
    integral = type(default) in (int, str) or (default is None and float(low) >= 1)
    return "must be of type int" if integral and not isinstance(value, int) else None


def _type_problem(value: Any, default: Any) -> str | None:
    if isinstance(default, list):
        alike = isinstance(value, list) and all(_problem(v, default[0], None) is None for v in value)
        return None if alike else f"must be a list of type {type(default[0]).__name__}"
    if default in (None, MISSING):
        return None if isinstance(value, str | None) else "must be of type str"
    wanted = type(default)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return None
    if wanted in (bool, int, float, str) and type(value) is not wanted:
        return f"must be of type {wanted.__name__}"
    return None


def shaped(value: Any, shape: str) -> bool:
    """Whether a value has one of `SHAPES`."""
    if shape == "name":
        return isinstance(value, str)
    if shape == "stages":
        return isinstance(value, dict) and all(isinstance(k, str) and shaped(v, "names") for k, v in value.items())
    kinds = (int, float) if shape == "numbers" else str
    return isinstance(value, list) and all(isinstance(item, kinds) and item is not True for item in value)


def is_plain(value: Any) -> bool:
    """Whether a value is null, a number, text, true or false, or a list of these."""
    return type(value) in PLAIN or (type(value) is list and all(type(item) in PLAIN for item in value))


def suggestion(key: str, candidates: Sequence[str]) -> str:
    """The end of a message about an unknown setting: what may have been meant."""
    close = difflib.get_close_matches(key, candidates, n=1)
    if not close:  # perhaps the group was left out: alpha for backbone.alpha
        close = [c for c in candidates if c.rpartition(".")[2] == key.rpartition(".")[2]][:1]
    return f"; did you mean {close[0]!r}?" if close else "; `--help` lists them all"
