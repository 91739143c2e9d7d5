"""Composes the configuration of a run, of one task or several. In a multi-task run each task's is composed as in its
own run, then what they have in common. Nothing here imports torch.

`parts` of a multi-task configuration has each task's, in the form of a single-task run's.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from backbones.errors import UserError
from data.layouts import Layout
from tasks.engine.config import (
    as_overrides,
    chosen_options,
    experiment_groups,
    key_of,
    load_config,
    options,
    resume_paths,
    run_config,
)
from tasks.engine.layout import with_recognized_layout

JOINT = "multitask"
SHARED_SETTINGS = ("backbone", "seed", "paths", "name", "resume", "ckpt", "stages")  # of all tasks of a run
PER_TASK_TRAINER_SETTINGS = ("lr", "weight_decay")  # trainer settings that each task has for itself
# groups of settings that the run itself does not have
TASK_GROUPS = ("task", "data", "distill", "teacher", "detector")
# the run's settings that its tasks do not have as well
NOT_INHERITED = ("multitask", "task", "name", "resume", "ckpt", "stages", "data.root", "format")


def compose_config(overrides: Sequence[str], name: str = "config") -> tuple[dict[str, Any], str]:
    """The configuration that overrides describe, of one task or several, and the data layouts that were recognised.

    Raises:
        UserError: as `load_config` and `with_recognized_layout`, or the tasks cannot be combined.
    """
    if is_joint(overrides):
        return _joint(overrides, name)
    overrides, layout = with_recognized_layout(overrides)
    return load_config(overrides, name), layout.description if layout else ""


def is_joint(overrides: Sequence[str]) -> bool:
    """Whether overrides describe a run of several tasks."""
    return chosen_options([o for o in overrides if not part_of(key_of(o))])["task"] == JOINT


def part_of(key: str) -> str | None:
    """The task that a setting such as dogs.data.root belongs to, if any."""
    name, dot, _ = key.partition(".")
    return name if dot and name in options("task") and name != JOINT else None


def tasks_of(config: Mapping[str, Any]) -> Mapping[str, dict[str, Any]]:
    """The configurations of a run's tasks, by name; for a single-task run, its own."""
    parts: Mapping[str, dict[str, Any]] = config.get("parts") or {config["task"]["name"]: dict(config)}
    return parts


def is_demo(config: Mapping[str, Any]) -> bool:
    """Whether a configuration's data set is a generated demo, for which ImageNet weights help little."""
    return str(config["groups"]["data"]).startswith("demo_")


def with_data(config: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """The configuration with the data settings of each of its tasks changed."""
    if "parts" not in config:
        return config | {"data": change(config["data"])}
    return config | {"parts": {name: with_data(part, change) for name, part in config["parts"].items()}}


def input_side(config: Mapping[str, Any]) -> int:
    """Input side in pixels before backbone.rho; the largest of several tasks."""
    return max(int(part["task"]["resolution"]) for part in tasks_of(config).values())


def split_by_task(overrides: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The run's own overrides, and those of each task with its name removed."""
    own: list[str] = []
    parts: dict[str, list[str]] = {}
    for override in overrides:
        if name := part_of(key_of(override)):
            parts.setdefault(name, []).append(override.replace(f"{name}.", "", 1))
        else:
            own.append(override)
    return own, parts


def for_parts(overrides: Sequence[str]) -> list[str]:
    """The overrides of a run that apply to each of its tasks as well."""
    found = [o for o in overrides if key_of(o).partition(".")[0] not in NOT_INHERITED or key_of(o).startswith("task.")]
    return [o for o in found if key_of(o) != "data" and "task" not in experiment_groups(o)]


def trained_tasks(config: Mapping[str, Any]) -> list[str]:
    """The tasks that a run trains: all of them, or the one that is added."""
    added = config["multitask"]["add"]
    return [added] if added else list(config["parts"])


def _joint(overrides: Sequence[str], name: str) -> tuple[dict[str, Any], str]:
    own, given = split_by_task(overrides)
    for key in map(key_of, own):
        if key == "data.root" or (key == "data" and "data=joint" not in own):
            raise UserError(f"{key}=... belongs to one task: put the task's name in front, as in dogs.{key}=...")
    config = load_config([o for o in own if not _of_parts(o)], name)
    resume = resume_paths(own)
    saved = run_config(resume[-1])["parts"] if resume else {}
    kept: dict[str, Any] = {}
    if saved:
        config["multitask"] = run_config(resume[-1])["multitask"]
    elif config["multitask"]["add"]:
        config, kept = _added(config, own)
    config["parts"], descriptions = {}, []
    for task in _names(config, given):
        if task in kept:
            config["parts"][task] = kept[task]
            continue
        before = as_overrides(saved[task]["groups"]) if saved else []
        _check_own(task, given.get(task, []))
        common = for_parts(own)
        if any(key_of(o) == "experiment" for o in given.get(task, [])):  # it replaces the run's
            common = [o for o in common if key_of(o) != "experiment"]
        part, layout = _part(task, [*before, *common, *given.get(task, [])], bool(saved))
        config["parts"][task] = _joined(part, config)
        descriptions += [f"{task}: {layout.description}"] if layout else []
    return config, ", ".join(descriptions)


def for_hydra(override: str) -> str:
    """An override in a form that Hydra's sweeps accept: those of tasks, which Hydra does not know, as one added key."""
    key, equals, value = override.partition("=")
    hidden = part_of(key) or _of_parts(override)
    return f"+{key.replace('.', '$')}{equals}{value}" if hidden else override


def from_hydra(override: str) -> str:
    """The inverse of `for_hydra`."""
    key, equals, value = override.partition("=")
    return f"{key[1:].replace('$', '.')}{equals}{value}" if key.startswith("+") and "$" in key else override


def _of_parts(override: str) -> bool:
    """Whether a setting belongs to single tasks only."""
    key = key_of(override)
    return key.partition(".")[0] in TASK_GROUPS and key not in ("task", "task.resolution", "data")


def _names(config: Mapping[str, Any], given: Mapping[str, list[str]]) -> list[str]:
    """The tasks of a run. Raises UserError if they are not two or more, each once, or others have settings."""
    settings = config["multitask"]
    names, offered = settings["tasks"] or [], [o for o in options("task") if o != JOINT]
    if len(names) < 2:
        raise UserError(
            f"multitask.tasks={'null' if not names else f'[{names[0]}]'}: name at least two of {', '.join(offered)}"
        )
    for name in names:
        if name not in offered:
            raise UserError(f"multitask.tasks: there is no task {name!r:.40}; choose from {', '.join(offered)}")
        if names.count(name) > 1:
            raise UserError(f"multitask.tasks names {name} twice; each task can be named once")
    for name in given:
        if name not in names:
            raise UserError(f"{name}.{key_of(given[name][0])}: {name} is not among multitask.tasks=[{','.join(names)}]")
    for key in ("weights", "references"):
        if settings[key] is not None and len(settings[key]) != len(names):
            raise UserError(f"multitask.{key} must be {len(names)} numbers, one for each of {', '.join(names)}")
        if any(not value > 0 for value in settings[key] or []):
            raise UserError(f"multitask.{key}={settings[key]}: must be above 0")
    return names


def _check_own(task: str, own: Sequence[str]) -> None:
    """Raises UserError if a task is given a setting that all tasks have in common."""
    for key in map(key_of, own):
        group, _, name = key.partition(".")
        if group in SHARED_SETTINGS or key == "task" or (group == "trainer" and name not in PER_TASK_TRAINER_SETTINGS):
            raise UserError(f"{task}.{key} cannot be set for one task: it is common to all tasks, as {key}=...")


def _part(task: str, overrides: Sequence[str], resumed: bool) -> tuple[dict[str, Any], Layout | None]:
    """The configuration of a task, as of its own run."""
    overrides = [f"task={task}", *overrides]
    try:
        overrides, layout = (overrides, None) if resumed else with_recognized_layout(overrides)
        return load_config(overrides), layout
    except UserError as error:
        raise UserError(f"{task}: {error}") from error


def _joined(part: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """A task's configuration with what all tasks of the run have in common."""
    groups = part["groups"] | {key: config["groups"][key] for key in ("backbone", "trainer")}
    trainer = config["trainer"] | {key: part["trainer"][key] for key in PER_TASK_TRAINER_SETTINGS}
    common = {key: config[key] for key in SHARED_SETTINGS} | {"name": None, "groups": groups, "trainer": trainer}
    return part | copy.deepcopy(common)  # YAML would write shared objects as aliases


def _added(config: dict[str, Any], own: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration of a run that adds a task to a multi-task run, and the configurations of that run's tasks.

    Raises:
        UserError: `ckpt` is not a multi-task run or has the task, or tasks or a backbone are given again.
    """
    added, run, settings = config["multitask"]["add"], config["ckpt"], config["multitask"]
    if not run:
        raise UserError(f"multitask.add={added}: give the multi-task run to add it to, ckpt=<run folder>")
    try:
        base = run_config(run)
    except UserError as error:
        raise UserError(str(error).replace("resume=", "ckpt=", 1)) from error
    if "parts" not in base:
        raise UserError(f"multitask.add={added}: ckpt={run} is a run of one task, task={base['task']['name']}")
    if added in base["parts"]:
        raise UserError(f"multitask.add={added}: the run {run} already has this task")
    if settings["tasks"] or any(key_of(o).startswith("backbone") for o in own):
        raise UserError(
            "multitask.add: the other tasks and the backbone come from ckpt=<run folder>; do not give them again"
        )
    before = base["multitask"]
    patch = next(kind for kind in (settings["share"], before["share"], "norm") if kind != "all")
    patches = [*(before["patches"] or [before["share"]] * len(before["tasks"])), patch]
    tasks = [*before["tasks"], added]
    settings |= {"tasks": tasks, "share": before["share"], "patches": patches, "balance": "sum", "weights": None}
    for each in (config, *base["parts"].values()):  # no weights are read but those of ckpt
        sources = {key: value for key, value in (("weights", None), ("pretrained", False)) if key in base["backbone"]}
        each["backbone"] = base["backbone"] | sources
        each["groups"]["backbone"] = base["groups"]["backbone"]
    return config, base["parts"]
