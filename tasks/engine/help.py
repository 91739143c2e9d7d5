"""What `python -m tasks.run --help` prints: the files of the chosen options, which explain each setting. Nothing here
imports torch.
"""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import yaml

from tasks.engine.config import CONF, chosen_options, options

HEADER = """\
# Trains a model. Example: python -m tasks.run task=detection data.root=<folder> backbone.alpha=0.75
# Change a setting with key=value, sweep with -m key=a,b,c, resume with resume=<run folder>.
# Below are all settings of the chosen options, with their defaults; a value further down replaces one above.
# `task=geo --help` prints those of task=geo. A multi-task run has the settings of its tasks too.
"""
GLOBAL = "# @package _global_\n"  # first line of a file whose settings are not all of its group
UNSHOWN = re.compile(r" *(?:allowed|_target_|_result_|hydra|defaults):")


def help_text(overrides: Sequence[str]) -> str:
    """The settings that the options chosen by `overrides` have, with their comments.

    Raises:
        UserError: there is no such option.
    """
    top, _, rest = (CONF / "config.yaml").read_text().partition("defaults:\n")
    defaults, _, settings = rest.partition("\n\n")
    shown = "\n".join(line for line in defaults.splitlines() if "- override" not in line)
    found = [HEADER, f"{top}defaults:\n{shown}\n", _settings(settings)]
    chosen = sorted(chosen_options(overrides).items(), key=lambda choice: choice[0] == "task")  # it overrides others
    chosen += [("experiment", o.partition("=")[2]) for o in overrides if o.startswith("experiment=")][-1:]
    for group, option in chosen:
        offered = f"{group}={option}, chosen from {', '.join(options(group))}"
        found.append(textwrap.fill(offered, 120, initial_indent="# --- ", subsequent_indent="#     "))
        whole = ""
        for file in _files(CONF / group / f"{option}.yaml"):
            text = file.read_text()
            own = _settings(text.removeprefix(GLOBAL))
            whole += own if text.startswith(GLOBAL) else textwrap.indent(own, "  ")
        found.append(whole if text.startswith(GLOBAL) else f"{group}:\n{whole}")
    return "\n".join(found)


def _files(file: Path) -> list[Path]:
    """An option's file, after those that it is based on."""
    bases = [base for base in yaml.safe_load(file.read_text()).get("defaults", []) if isinstance(base, str)]
    found = [path for base in bases if base != "_self_" for path in _files(file.with_name(f"{base}.yaml"))]
    return list(dict.fromkeys([*found, file]))


def _settings(text: str) -> str:
    """The lines of a file without those of UNSHOWN, and what is inside them."""
    lines, inside = [], -1  # the indentation of the key whose lines are left out
    for line in text.splitlines():
        depth = len(line) - len(line.lstrip())
        if inside < 0 or (line and depth <= inside):
            inside = depth if UNSHOWN.match(line) else -1
            if inside < 0:
                lines.append(line)
    return "\n".join(lines).strip("\n") + "\n"
