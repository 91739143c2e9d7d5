"""Chooses the data option that fits `data.root` if the command line names none. Nothing here imports torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from backbones.errors import UserError
from data.layouts import Layout, recognize
from tasks.engine.config import CONF, chosen_options, experiment_groups, quoted

CHOSEN_BY = ("data=", "resume=")  # overrides that say which option of conf/data is meant


def with_recognized_layout(overrides: Sequence[str]) -> tuple[list[str], Layout | None]:
    """The overrides, with the data option and settings recognised from their `data.root`, and the layout. They are
    returned unchanged if they have no `data.root`, or say which data option is meant.

    Raises:
        UserError: the folder has no known layout, or an override names an option that does not exist.
    """
    roots = [o.partition("=")[2].strip("'\"") for o in overrides if o.startswith("data.root=")]
    if not roots or any(o.startswith(CHOSEN_BY) or "data" in experiment_groups(o) for o in overrides):
        return list(overrides), None
    layout = recognize(Path(roots[-1]), family(chosen_options(overrides)["data"]))
    settings = [f"data.{key}={_value(value)}" for key, value in layout.settings.items()]
    return [f"data={layout.option}", *settings, *overrides], layout


def family(option: str) -> str:
    """The file of shared settings, such as _detection, that an option of conf/data is based on."""
    bases = (yaml.safe_load((CONF / "data" / f"{option}.yaml").read_text()) or {}).get("defaults", [])
    base = next((b for b in bases if isinstance(b, str) and b != "_self_"), "")
    return base if base.startswith("_") or not base else family(base)


def _value(value: Any) -> str:
    """A setting's value in Hydra's grammar."""
    if isinstance(value, list):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, str):
        if "${" in value:  # would be replaced by a setting or a variable of the environment
            raise UserError(f"data.root has a file or folder named {value!r}: rename it, or choose another with data=")
        return quoted(value)
    return "null" if value is None else str(value).lower()
