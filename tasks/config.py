"""Composes and checks the configuration. Nothing here imports torch, so that mistakes answer at once.

A group's YAML file is its own schema: its keys are all there are, a default gives the type, and `allowed`
gives an interval such as "(0, 2]" or a list of choices.
"""

import difflib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from backbones.console import plain
from backbones.errors import UserError

CONF = Path(__file__).resolve().parent.parent / "conf"
MISSING = "???"
PATHS = {"ckpt", "input", "output", "resume", "root", "data.root", "backbone.weights", "paths.data", "paths.runs"}
PATHS |= {"export", "folder", "source", "teacher", "distill.cache", "data.unlabelled", "against", "runs", "a", "b"}
TORCH_MISMATCH = (
    "torch and torchvision are not of the same build (a CPU-only torch beside the registry's torchvision?); "
    "install both together: pip install --force-reinstall -r requirements.lock"
)
YAML_BYTES, YAML_DEPTH = 1 << 20, 50  # of a file that may be a stranger's
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
INTERVAL = re.compile(r"([\[(])(\S+), (\S+)([\])])")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the program with status 2 and one line where the user can put something right."""
    try:
        yield
    except UserError as error:
        # from a loader process it comes wrapped in the traceback, whose last line is the message
        message = str(error).strip().rpartition("backbones.errors.UserError: ")[2]
        _print_error(message)
        sys.exit(2)
    except OSError as error:  # a full disk, a folder that may not be written
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
        _print_error(message)
        sys.exit(2)
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        print(f"error: {TORCH_MISMATCH}", file=sys.stderr)
        sys.exit(2)


def _print_error(message: str) -> None:
    print("error:", *plain(message).splitlines(), file=sys.stderr)  # names of files may hold line breaks


def arguments(command: str) -> list[str]:
    """What was given on the command line; --help prints the command's settings and ends the program."""
    given = sys.argv[1:]
    if {"--help", "-h"} & set(given):
        print((CONF / f"{command}.yaml").read_text(), end="")
        sys.exit(0)
    return given


def load_config(overrides: Sequence[str], name: str = "config") -> dict[str, Any]:
    """The configuration that the command-line overrides describe, as plain values.

    Raises:
        UserError: an override does not parse, or names an unknown group, option, key or value.
    """
    # The options chosen, by an experiment file too, with nothing else changed: the schema.
    overrides = [_quoted(o) for o in overrides]
    options = _compose(name, [o for o in overrides if _group(o)], hydra=True)["hydra"]["runtime"]["choices"]
    chosen = {group: o for group, o in options.items() if group in _groups() and group != "experiment"}
    defaults = _compose(name, [f"{group}={option}" for group, option in chosen.items()])
    # Settings are looked up before Hydra sees them, for a better message, and `+` is no way round.
    known = set(leaves(defaults))
    for override in overrides:
        key = override.split("=", 1)[0].lstrip("+~").strip()
        if "=" not in override:
            raise UserError(f"{override!r} is not of the form key=value")
        if not _group(override) and not any(k == key or k.startswith(f"{key}.") for k in known):
            raise UserError(f"unknown setting {key!r}{_elsewhere(key, chosen) or _suggest(key, [*known, *_groups()])}")
        if override.startswith(("+", "~")):
            raise UserError(f"{override}: settings are changed with {key}=value, not added or removed")
    config = _compose(name, overrides)
    _check(defaults, config)
    return _without_limits(config) | {"groups": chosen}


def changed(config: Mapping[str, Any], saved: bool = False) -> dict[str, Any]:
    """Dotted settings that differ from the defaults of the options chosen, without names and places. In a `saved`
    configuration, what a backbone settles on by itself is no change.
    """
    defaults = leaves(_compose("config", [f"{group}={option}" for group, option in config["groups"].items()]))
    found = {k: v for k, v in leaves(config).items() if k in defaults and v != defaults[k]}
    settled = ("backbone.padding", "backbone.norm_eps") if saved else ()
    return {k: v for k, v in found.items() if k not in (*PATHS, *settled, "name", "stages") or k == "ckpt"}


def _compose(name: str, overrides: Sequence[str], hydra: bool = False) -> dict[str, Any]:
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose(name, overrides=list(overrides), return_hydra_config=hydra)
        plain = OmegaConf.to_container(config, resolve=not hydra)
        assert isinstance(plain, dict)
        return {str(key): value for key, value in plain.items()}
    except MissingConfigException as error:
        group, _, option = (error.missing_cfg_file or "").rpartition("/")
        raise UserError(f"{group}={option}: choose from {', '.join(_groups().get(group, []))}") from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if "hydra.cc" not in line]
        raise UserError(": ".join(lines[:2])) from error


def _groups() -> dict[str, list[str]]:
    """Config groups and their options."""
    groups = (folder for folder in CONF.iterdir() if folder.is_dir())
    return {g.name: sorted(f.stem for f in g.glob("[!_]*.yaml")) for g in groups}


def _group(override: str) -> str | None:
    """The config group that an override chooses an option of, if it does."""
    key = override.split("=", 1)[0].strip()
    return key if key in _groups() else None


def saved_groups(run: str) -> list[str]:
    """The group options that a run was started with, as overrides.

    Raises:
        UserError: this is not the folder of a run.
    """
    file = Path(run) / "config.yaml"
    if not file.is_file():
        raise UserError(f"resume={run}: this is not the folder of a run, it has no config.yaml")
    return [f"{group}={option}" for group, option in yaml.safe_load(file.read_text())["groups"].items()]


def read_plain_yaml(path: Path) -> Any:
    """The content of a YAML file that may be a stranger's: plain values, without anchors, at most a megabyte.

    Raises:
        UserError: it cannot be read, or is no such file.
    """
    try:
        with path.open("rb") as file:
            data = file.read(YAML_BYTES + 1)
        if len(data) > YAML_BYTES:
            raise UserError(f"{path} is larger than a megabyte, which no configuration is")
        depth = 0
        for event in yaml.parse(data, Loader=LOADER):  # before anything is built: anchors multiply, depth recurses
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > YAML_DEPTH:
                raise UserError(f"{path} is no plain YAML: it has anchors or is nested too deep")
        return yaml.load(data, Loader=LOADER)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{path} is no YAML: {(str(error) or type(error).__name__).splitlines()[0]}") from error


def _quoted(override: str) -> str:
    """Paths and names of shards may hold brackets and spaces, which mean something else to Hydra."""
    key, equals, value = override.partition("=")
    if (key not in PATHS and ".tar" not in value) or not equals or value[:1] in ("'", '"') or value == "null":
        return override
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{escaped}'"


def _elsewhere(key: str, chosen: Mapping[str, str]) -> str | None:
    """Which options of the key's group have it, where the chosen one has not: alpha is MobileNet's own."""
    group, _, name = key.partition(".")
    having = [o for o in _groups().get(group, []) if name in OmegaConf.load(CONF / group / f"{o}.yaml")]
    if not having or group not in chosen:
        return None
    return f": {group}={chosen[group]} has no {name}, only {', '.join(having)}"


def _suggest(key: str, candidates: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, candidates, n=1)
    if not close:  # perhaps the group was left out: alpha for backbone.alpha
        close = [c for c in candidates if c.rpartition(".")[2] == key.rpartition(".")[2]][:1]
    return f"; did you mean {close[0]!r}?" if close else "; `--help` lists them all"


def leaves(config: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys and values of everything but `allowed`."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if key == "allowed":
            continue
        if isinstance(value, Mapping):
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _check(defaults: dict[str, Any], config: dict[str, Any], path: str = "") -> None:
    limits = config.get("allowed", {})
    for name, value in config.items():
        key = f"{path}{name}"
        if name == "allowed":
            continue
        if name not in defaults:
            raise UserError(f"unknown setting {key!r}{_suggest(key, [f'{path}{k}' for k in defaults])}")
        if isinstance(value, dict) and isinstance(defaults[name], dict):
            _check(defaults[name], value, f"{key}.")
        elif name not in limits and defaults[name] in (None, MISSING) and isinstance(value, int | float):
            config[name] = str(value)  # a path or a name, even where it looks like a number
        elif value == MISSING:
            raise UserError(f"{key}=... must be given")
        elif problem := _problem(value, defaults[name], limits.get(name)):
            raise UserError(f"{key}={value}: {problem}")


def _problem(value: Any, default: Any, limit: Any) -> str | None:
    """What is wrong with a value, given its default and its limit."""
    if limit is not None and not isinstance(limit, str):
        words = ["null" if v is None else str(v) for v in limit]
        return None if str("null" if value is None else value) in words else f"choose from {', '.join(words)}"
    if value == default or default == MISSING or (limit is None and default in (None, "auto")):
        return None
    wanted = type(default)
    if limit is not None:  # an interval
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"must be a number in {limit}"
        opening, low, high, closing = INTERVAL.fullmatch(limit).groups()  # type: ignore[union-attr]
        above = value > float(low) if opening == "(" else value >= float(low)
        below = value < float(high) if closing == ")" else value <= float(high)
        if not (above and below):
            return f"must be in {limit}"
        return "must be of type int" if wanted is int and not isinstance(value, int) else None
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return None
    if wanted in (bool, int, float, str) and type(value) is not wanted:
        return f"must be of type {wanted.__name__}"
    return None


def _without_limits(config: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_limits(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key != "allowed"
    }
