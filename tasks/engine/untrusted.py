"""Validates the settings of run folders and checkpoints, which are not trusted.

Of the paths and URLs that a file names, only data.root is read. A teacher, and whatever else would be read,
written or downloaded, is used only if the command line names it too.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from backbones.errors import UserError
from data.tar import expand
from data.text import read_plain_yaml
from tasks.engine.config import LENGTHS, as_overrides, key_of, load_options, quoted, run_config
from tasks.engine.multitask_config import for_parts, part_of, split_by_task, trained_tasks
from tasks.engine.names import plain_name
from tasks.engine.schema import shaped

PLAN = "stages.yaml"
# the structure of the optimizer, which is kept
OPTIMIZER_SETTINGS = ("trainer.optimizer", "trainer.freeze_backbone", "trainer.backbone_lr_scale")
# with 0, the optimizer or the checkpoint lacks what another value needs
ZERO_OR_NOT = ("trainer.weight_decay", "trainer.momentum", "trainer.ema_decay")
USED_WHILE_TRAINING = ("teacher", "distill.cache")
INITIAL_WEIGHTS = ("ckpt", "backbone.weights", "backbone.pretrained")  # used until a run's first checkpoint
# used only if the command line names them too
NEEDS_CONFIRMATION = (*USED_WHILE_TRAINING, *INITIAL_WEIGHTS, "backbone.pretrained_url")


def is_staged(folder: str) -> bool:
    """Whether this is the folder of a run in stages."""
    return (Path(folder) / PLAN).exists()


def below_root(data: dict[str, Any], root: str | None) -> dict[str, Any]:
    """The data settings of a file, restricted to `root` or, if that is None, to the file's own data.root. With a
    `root`, a URL, an absolute path or one with `..` becomes the file of the same name in `root`.

    Raises:
        UserError: data.root is a URL; without `root`, a setting names such a path or URL; with it, such a setting has
            no file name.
    """
    found = data | {"root": root or data["root"]}
    if "://" in str(found["root"]):
        raise UserError(f"data.root={found['root']} is an address; give root=<folder>")
    for name, value in found.items():
        values = value if isinstance(value, list) else [value]
        if name == "root" or not any(isinstance(v, str) and _outside(v) for v in values):
            continue
        if root is None:
            raise UserError(
                f"data.{name}={value} is outside data.root, and paths from a file are used only inside it; give "
                "root=<folder> to read the file or folder of the same name there"
            )
        inside = [PurePath(v).name if isinstance(v, str) and _outside(v) else v for v in values]
        if any(isinstance(v, str) and _outside(v) for v in inside):
            raise UserError(f"data.{name}={value} has no file name that could be in root={root}")
        found[name] = inside if isinstance(value, list) else inside[0]
    return found


def _outside(value: str) -> bool:
    """Whether a setting, or one of the shard names that it expands to, leads outside data.root."""
    names = (value, *expand(value))
    return any("://" in n or PurePath(n).is_absolute() or ".." in PurePath(n).parts for n in names)


def resumed_config(folder: Path, config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration of the run to resume, with the overrides applied; `config` has their values.

    Raises:
        UserError: it is not a run folder; an override would make it another run; or its config.yaml alone names a
            teacher, a cache, weights or files outside data.root.
    """
    saved = run_config(folder)
    begun = (folder / "checkpoints" / "last.ckpt").exists()
    if "parts" not in saved:
        return _resumed(folder, saved, config, overrides, begun)
    own, parts = split_by_task(overrides)
    before = _equal_rates(saved)
    for name in trained_tasks(saved):
        part = saved["parts"][name]
        again = [o for o in for_parts(own) if not o.startswith("backbone")] + parts.get(name, [])
        saved["parts"][name] = _resumed(folder, part, config["parts"][name], again, True, f"{name}.")
    saved = _resumed(folder, saved, config, [o for o in own if not o.startswith("data.")], begun)
    for part in saved["parts"].values():
        part["backbone"] = dict(saved["backbone"])
    if begun and _equal_rates(saved) != before:
        raise UserError(
            "trainer.lr, trainer.weight_decay: tasks whose values were equal must stay equal when resuming, and others "
            f"different, as the optimizer is kept: give each its own, as in {trained_tasks(saved)[0]}.trainer.lr=..."
        )
    return saved


def _equal_rates(config: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Which of the run and its tasks have equal learning rates, and equal weight decays too: the parameters of those
    are one group of the optimizer.
    """
    settings = [config["trainer"], *(config["parts"][name]["trainer"] for name in trained_tasks(config))]
    rates, pairs = [s["lr"] for s in settings], [(s["lr"], s["weight_decay"]) for s in settings]
    return [(rates.index(pair[0]), pairs.index(pair)) for pair in pairs]


def _resumed(
    folder: Path,
    saved: dict[str, Any],
    config: Mapping[str, Any],
    overrides: Sequence[str],
    begun: bool,
    prefix: str = "",
) -> dict[str, Any]:
    """A task's saved configuration with the overrides applied; error messages put `prefix` before its settings."""
    given = {*map(key_of, overrides)} - {"resume"}
    for key in given:
        if not key.startswith(("trainer.", "data.", "logger.")) and key not in NEEDS_CONFIRMATION:
            raise UserError(
                f"{prefix}{key}={setting(config, key)} cannot change when resuming; only settings of trainer, data and "
                "logger can"
            )
        if key in OPTIMIZER_SETTINGS and setting(config, key) != setting(saved, key):
            raise UserError(f"{prefix}{key}={setting(config, key)} cannot change when resuming: the optimizer is kept")
        if key in ZERO_OR_NOT and bool(setting(config, key)) != bool(setting(saved, key)):
            raise UserError(f"{prefix}{key}={setting(config, key)} cannot change when resuming from or to 0")
        _set(saved, key, setting(config, key))
    if given.intersection(LENGTHS):  # only one of them counts
        for key in LENGTHS:
            _set(saved, key, setting(config, key))
    if not begun and "pretrained_url" in saved["backbone"]:
        saved["backbone"]["pretrained_url"] = config["backbone"]["pretrained_url"]
    kept = (*USED_WHILE_TRAINING, *(() if begun else INITIAL_WEIGHTS))
    names = [key for key in kept if key not in given and setting(saved, key) not in (None, False, "auto", "")]
    if names:
        again = shlex.join([f"resume={folder}", *(f"{prefix}{key}={setting(saved, key)}" for key in names)])
        raise UserError(
            f"{folder / 'config.yaml'} names values that are used only if you confirm them, as the run folder may "
            f"come from someone else; to confirm: {again}"
        )
    own = {k: v for k, v in saved["data"].items() if f"data.{k}" not in given or k == "root"}
    if own:
        saved["data"] = saved["data"] | below_root(own, None)
    return saved


def to_resume(folder: Path, overrides: Sequence[str], config: Mapping[str, Any]) -> list[str]:
    """The overrides that resume the run started with `overrides`, which compose `config`, repeating what a run folder
    alone may not set, also where an experiment sets it. In a run in stages, each stage has its own.
    """
    again = []
    for override in overrides:
        key = key_of(override).removeprefix(f"{part_of(key_of(override))}.")
        if key in NEEDS_CONFIRMATION or (key.startswith("data.") and key != "data.root"):
            again.append(override)
    if config["stages"]:
        return [f"resume={folder}", *again]
    named = {*map(key_of, again)}
    parts = {f"{name}.": config["parts"][name] for name in trained_tasks(config)} if "parts" in config else {}
    for prefix, part in {"": config, **parts}.items():
        initial = () if prefix else INITIAL_WEIGHTS  # a task has the run's backbone and ckpt
        for key in (*USED_WHILE_TRAINING, *initial):
            value = setting(part, key)
            if not {key, f"{prefix}{key}"} & named and value not in (None, False, "auto", ""):
                again.append(f"{prefix}{key}={value if value is True else quoted(str(value))}")
    return [f"resume={folder}", *again]


def read_plan(file: Path, given: Sequence[str]) -> dict[str, Any]:
    """The stages of a run and the settings that it was started with, from its stages.yaml.

    Raises:
        UserError: it cannot be read, or has values that are used only if those `given` confirm them.
    """
    plan = read_plain_yaml(file)
    known = isinstance(plan, dict) and shaped(plan.get("stages"), "stages") and shaped(plan.get("overrides"), "names")
    if not known:
        raise UserError(f"{file} cannot be read: it is not a plan of stages")
    for name in plan["stages"]:
        plain_name(name, f"{file}: stage")
    named = {key_of(override) for override in given}
    for override in (o for row in (plan["overrides"], *plan["stages"].values()) for o in row):
        full, _, value = (part.strip(" +~'\"") for part in override.partition("="))
        key = full.removeprefix(f"{part_of(full)}.")
        if "${" in override:
            raise UserError(f"{file}: {override!r:.80} is not a plain setting")
        if key in NEEDS_CONFIRMATION and not {key, full} & named and value not in ("null", "false", "auto", ""):
            raise _unconfirmed(file, full, value)
    return {"stages": plan["stages"], "overrides": plan["overrides"]}


def check_stage(config: Mapping[str, Any], overrides: Sequence[str], given: Sequence[str], file: Path) -> None:
    """Refuses a configuration composed from `overrides` of an untrusted plan if it, or that of one of its tasks, has
    values that are used only if those `given` confirm them. Values from options in conf/ are trusted.

    Raises:
        UserError: neither those given nor an option have such a value.
    """
    confirmed = {key_of(o): o.partition("=")[2].strip("'\"").lower() for o in given}
    recipes = [[f"experiment={o.partition('=')[2]}"] for o in overrides if key_of(o).rpartition(".")[2] == "experiment"]
    parts = {f"{name}.": config["parts"][name] for name in trained_tasks(config)} if "parts" in config else {}
    for prefix, part in {"": config, **parts}.items():
        ours = [load_options(choice) for choice in (as_overrides(part["groups"]), *recipes)]
        for key in NEEDS_CONFIRMATION:
            value = setting(part, key)
            known = [None, False, "auto", "", *(setting(options, key) for options in ours)]
            if value not in known and confirmed.get(f"{prefix}{key}", confirmed.get(key)) != str(value).lower():
                raise _unconfirmed(file, f"{prefix}{key}", value)


def _unconfirmed(file: Path, key: str, value: Any) -> UserError:
    again = shlex.quote(f"{key}={value}")
    return UserError(f"{file} names {again}, which is used only if you confirm it: add it to resume=")


def setting(config: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted setting; None if there is none."""
    group, _, name = key.rpartition(".")
    return (config.get(group, {}) if group else config).get(name)


def _set(config: dict[str, Any], key: str, value: Any) -> None:
    group, _, name = key.rpartition(".")
    (config[group] if group else config)[name] = value
