"""Composes and checks the configuration. Nothing here imports torch, so that errors are reported immediately.

The class or function of an option (`_target_`) and the class of a task's results (`_result_`) are not settings: they
are read from conf/ where they are needed, so that no file and no command line names code.
"""

import copy
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from backbones.console import plain
from backbones.errors import UserError
from data.text import read_plain_yaml
from tasks.engine.schema import HIDDEN, check, is_plain, shaped, suggestion

CONF = Path(__file__).resolve().parents[2] / "conf"
PATHS = {"ckpt", "input", "output", "resume", "root", "data.root", "backbone.weights", "paths.data", "paths.runs"}
PATHS |= {"export", "folder", "source", "teacher", "distill.cache", "data.unlabelled_folder", "reference", "runs"}
PATHS |= {"a", "b", "exports", "samples", "runtime_folder"}
TORCH_MISMATCH = (
    "torch and torchvision are not of the same build (a CPU-only torch beside the registry's torchvision?); "
    "install both together: pip install --force-reinstall -r requirements.lock"
)
LENGTHS = ("trainer.minutes", "trainer.steps", "trainer.max_epochs")  # the one given last counts
# settings of earlier versions, which their files may still name
RETIRED = {"data.zoom_out", "task.evaluator", "trainer.head_warmup_epochs"}


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the program with status 2 and one line for an error that the user can correct."""
    try:
        yield
    except Exception as error:
        if (message := user_message(error)) is None:
            raise
        print("error:", message, file=sys.stderr)
        sys.exit(2)


def user_message(error: Exception) -> str | None:
    """What to tell the user, in one line, about an error that they can correct; None for others."""
    if isinstance(error, UserError):
        # from a loader process it comes wrapped in the traceback, whose last line is the message
        message = str(error).strip().rpartition("backbones.errors.UserError: ")[2]
    elif isinstance(error, OSError):  # a full disk, a folder that may not be written
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
    elif isinstance(error, RuntimeError) and "torchvision::nms" in str(error):
        message = TORCH_MISMATCH
    else:
        return None
    return " ".join(plain(message).splitlines())  # names of files may hold line breaks


def arguments(command: str) -> list[str]:
    """The command line's arguments; --help prints the command's settings and exits."""
    given = [expand_home(argument) for argument in sys.argv[1:]]
    if {"--help", "-h"} & set(given):
        print((CONF / f"{command}.yaml").read_text(), end="")
        sys.exit(0)
    return given


def expand_home(argument: str) -> str:
    """A command line's argument with the home folder for the ~ of group.key=~/path, where shells keep it. Settings from
    files are not changed, as they may be someone else's.
    """
    key, equals, value = argument.partition("=")
    return f"{key}{equals}{os.path.expanduser(value)}" if value.startswith("~/") else argument


def load_config(overrides: Sequence[str], name: str = "config") -> dict[str, Any]:
    """The configuration that the command-line overrides describe, as plain values.

    Raises:
        UserError: an override does not parse, or names an unknown group, option, key or value.
    """
    overrides = [_quoted(o) for o in overrides]
    chosen, defaults = _schema(name, overrides)
    # Settings are looked up before Hydra sees them, for a better message, and `+` does not get around that.
    known = set(flatten(defaults))
    for override in overrides:
        key = key_of(override)
        if "=" not in override:
            raise UserError(f"{override!r} is not of the form key=value")
        if not _group(override) and not any(k == key or k.startswith(f"{key}.") for k in known):
            hint = _elsewhere(key, chosen) or suggestion(key, [*known, *_groups()])
            raise UserError(f"unknown setting {key!r}{hint}")
        if override.startswith(("+", "~")):
            raise UserError(f"{override}: settings are changed with {key}=value, not added or removed")
    config = _compose(name, overrides)
    if lengths := [o for o in overrides if o.startswith(LENGTHS) and not o.endswith("=null")]:
        last = key_of(lengths[-1])
        config["trainer"] |= {key.partition(".")[2]: None for key in LENGTHS if key != last}
    check(defaults, config)
    return _settings_of(config) | {"groups": chosen}


def load_options(choices: Sequence[str], name: str = "config") -> dict[str, Any]:
    """The configuration of options without overrides of settings, which needs no check."""
    composed, options = _composition(name, tuple(_quoted(o) for o in choices))
    return copy.deepcopy(_settings_of(composed)) | {"groups": _chosen(options)}


def chosen_options(overrides: Sequence[str]) -> dict[str, str]:
    """The option of each group that a command line selects.

    Raises:
        UserError: there is no such option.
    """
    return _schema("config", overrides)[0]


def _schema(name: str, overrides: Sequence[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """The options that overrides choose, also through an experiment, and the settings of these options.

    Raises:
        UserError: an option is not offered; those that begin with `_` are parts of others.
    """
    choices = tuple(o for o in overrides if _group(o))
    for override in choices:
        group, _, option = (part.strip(" '\"") for part in override.partition("="))
        if option not in _groups()[group]:
            raise UserError(f"{group}={option}: choose from {', '.join(_groups()[group])}")
    return copy.deepcopy(_schema_of(name, choices))


@lru_cache
def _schema_of(name: str, choices: tuple[str, ...]) -> tuple[dict[str, str], dict[str, Any]]:
    composed, options = _composition(name, choices)
    chosen = _chosen(options)
    if "experiment" not in options or options["experiment"] is None:
        return chosen, composed
    return chosen, _compose(name, as_overrides(chosen))


def _chosen(options: Mapping[str, str]) -> dict[str, str]:
    groups = _groups()
    return {group: o for group, o in options.items() if group in groups and group != "experiment"}


def saved_config(content: Any, source: str | Path) -> dict[str, Any]:
    """The configuration that the file `source` stores: options by name, and settings. It is not trusted, so its
    options and settings are checked like those of a command line; missing ones get the current defaults.

    Raises:
        UserError: it is not a configuration, or names an option, setting or value that is not offered.
    """
    groups = content.get("groups") if isinstance(content, dict) else None
    if not isinstance(groups, dict) or not {"task", "backbone", "data"} <= groups.keys():
        raise UserError(f"{source} holds no configuration of a run")
    for group, option in groups.items():
        if group == "experiment" or option not in _groups().get(group, []):
            raise UserError(f"{source}: this version has no {group!r:.40}={option!r:.40}")
    try:
        chosen, defaults = _schema("config", as_overrides(groups))
        joint = "multitask" in defaults  # the one task that is made of others
        kept = ("groups", "parts") if joint else ("groups",)
        config = _laid_over(defaults, {k: v for k, v in content.items() if k not in kept})
        check(defaults, config)
    except (UserError, ValueError) as error:  # Python prints no integer of thousands of digits
        raise UserError(f"{source}: {error}") from error
    config = _settings_of(config) | {"groups": chosen}
    return config | {"parts": _saved_parts(content.get("parts"), config, source)} if joint else config


def _saved_parts(parts: Any, config: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """The configurations of a saved run's tasks, each checked like a run's; all must have one backbone."""
    tasks = config["multitask"]["tasks"] or []
    if not isinstance(parts, dict) or list(parts) != tasks or len(tasks) < 2:
        raise UserError(f"{source} is damaged: its parts are not the tasks {','.join(tasks)}")
    found = {name: saved_config(part, source) for name, part in parts.items()}
    for name, part in found.items():
        if part["task"]["name"] != name or "parts" in part or part["backbone"] != config["backbone"]:
            raise UserError(f"{source} is damaged: its part {name} does not belong to this run")
    return found


def _laid_over(defaults: dict[str, Any], given: dict[str, Any], path: str = "") -> dict[str, Any]:
    """The defaults, overridden by the given values, which must be plain and of existing settings."""
    config = dict(defaults)
    for name, value in given.items():
        if f"{path}{name}" in RETIRED:
            continue
        if name == "_target_":
            raise UserError("written by an older version of this suite, which cannot be read; train again")
        if name not in defaults or name in HIDDEN:
            raise UserError(f"unknown setting {f'{path}{name}'!r:.80}")
        if isinstance(defaults[name], dict) and isinstance(value, dict):
            config[name] = _laid_over(defaults[name], value, f"{path}{name}.")
        elif is_plain(value) or (name == "stages" and shaped(value, "stages")):
            config[name] = value
        else:
            raise UserError(f"{path}{name} is not a plain value")
    return config


def non_default_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted settings that differ from the defaults of the chosen options, without names, and paths except ckpt."""
    defaults = flatten(_compose("config", as_overrides(config["groups"])))
    found = {k: v for k, v in flatten(config).items() if k in defaults and v != defaults[k]}
    own = {k: v for k, v in found.items() if k not in (*PATHS, "name", "stages") or k == "ckpt"}
    for name, part in config.get("parts", {}).items():
        own |= {f"{name}.{k}": v for k, v in non_default_settings(part).items() if own.get(k) != v}
    return own


def _compose(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The settings that overrides of options and settings compose."""
    return copy.deepcopy(_composition(name, tuple(overrides))[0])


@lru_cache
def _composition(name: str, overrides: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    """The configuration that overrides compose, and each group's option. Takes a tenth as long as importing torch."""
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose(name, overrides=list(overrides), return_hydra_config=True)
        options = OmegaConf.to_container(config.hydra.runtime.choices)
        with open_dict(config):
            del config["hydra"]
        plain = OmegaConf.to_container(config, resolve=True)
        assert isinstance(plain, dict)
        assert isinstance(options, dict)
        return {str(key): value for key, value in plain.items()}, {str(k): v for k, v in options.items()}
    except MissingConfigException as error:
        group, _, option = (error.missing_cfg_file or "").rpartition("/")
        raise UserError(f"{group}={option}: choose from {', '.join(_groups().get(group, []))}") from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if "hydra.cc" not in line]
        if comma := re.match(r"Ambiguous value for argument '(\S+=-?\d+),(\d+)'", lines[0]):
            number = f"{comma[1]}.{comma[2]}"
            raise UserError(f"write {number} with a decimal point; to run both values, add -m") from error
        raise UserError(": ".join(lines[:2])) from error


def options(group: str) -> list[str]:
    """The options of a config group."""
    return _groups().get(group, [])


def _groups() -> dict[str, list[str]]:
    """Config groups and their options."""
    groups = (folder for folder in CONF.iterdir() if folder.is_dir())
    options = {g.name: sorted(f.stem for f in g.glob("[!_]*.yaml")) for g in groups}
    return {group: names for group, names in options.items() if names}


def _group(override: str) -> str | None:
    """The config group whose option an override chooses, if any."""
    key = override.split("=", 1)[0].strip()
    return key if key in _groups() else None


def run_config(run: str | Path) -> dict[str, Any]:
    """The configuration of a run folder.

    Raises:
        UserError: this is not the folder of a run, or its configuration cannot be used.
    """
    file = Path(run) / "config.yaml"
    if not file.is_file():
        raise UserError(f"resume={run}: this is not a run folder; it has no config.yaml")
    return saved_config(read_plain_yaml(file), file)


def saved_groups(run: str) -> list[str]:
    """The group options that a run was started with, as overrides.

    Raises:
        UserError: as `run_config`.
    """
    return as_overrides(run_config(run)["groups"])


def key_of(override: str) -> str:
    """The group or dotted setting that an override sets."""
    return override.partition("=")[0].lstrip("+~").strip()


def resume_paths(overrides: Sequence[str]) -> list[str]:
    """The run folders that overrides name to be resumed, of which the last one counts."""
    return [o.partition("=")[2] for o in overrides if o.startswith("resume=")]


def as_overrides(groups: Mapping[str, str]) -> list[str]:
    """Options by group, as on a command line."""
    return [f"{group}={option}" for group, option in groups.items()]


def experiment_groups(override: str) -> set[str]:
    """The groups whose option `override` chooses, if it is an experiment."""
    key, _, name = override.partition("=")
    path = CONF / "experiment" / f"{name}.yaml"
    content = yaml.safe_load(path.read_text()) if key == "experiment" and path.is_file() else {}
    chosen = [key for entry in content.get("defaults", []) if isinstance(entry, dict) for key in entry]
    return {key.removeprefix("override /") for key in chosen}


def _quoted(override: str) -> str:
    """Paths and names of shards may hold brackets and spaces, which mean something else to Hydra."""
    key, equals, value = override.partition("=")
    if (key not in PATHS and ".tar" not in value) or not equals or value[:1] in ("'", '"') or value == "null":
        return override
    return f"{key}={quoted(value)}"


def quoted(value: str) -> str:
    """Text quoted in Hydra's grammar, where a backslash is an escape character only before a quotation mark."""
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value) + "'"


def _elsewhere(key: str, chosen: Mapping[str, str]) -> str | None:
    """Which options of the key's group have it if the chosen one does not: only MobileNet has alpha, for example."""
    group, _, name = key.partition(".")
    files = {o: yaml.safe_load((CONF / group / f"{o}.yaml").read_text()) or {} for o in _groups().get(group, [])}
    having = [o for o, content in files.items() if name not in HIDDEN and name in content.get(group, content)]
    if not having or group not in chosen:
        return None
    return f": {group}={chosen[group]} has no {name}, only {', '.join(having)}"


def flatten(config: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys and values of the settings."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if key in HIDDEN:
            continue
        if isinstance(value, Mapping):
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a composed configuration."""
    return {
        key: _settings_of(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in HIDDEN
    }
