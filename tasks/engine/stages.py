"""Runs in stages (`stages` of an experiment), each starting from the best weights of the previous one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from backbones.files import atomic_write
from data.text import read_json_object
from tasks.engine.config import key_of, saved_groups
from tasks.engine.multitask_config import compose_config, split_by_task
from tasks.engine.names import check_names
from tasks.engine.processes import is_rank_zero
from tasks.engine.signals import STOP, Stopped
from tasks.engine.untrusted import PLAN, below_root, check_stage, read_plan


def train_stages(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Trains the stages that are not finished yet, in folders of their own below the run's, and returns the
    last one's metrics.json.

    Raises:
        UserError: as `train` and `read_plan`.
    """
    from tasks.engine.train import console, run_lock

    more = [o for o in overrides if config["resume"] and not o.startswith("resume=")]
    if config["resume"] is None:
        folder, plan = new_plan(config, overrides)
    else:
        folder = Path(config["resume"])
        plan = read_plan(folder / PLAN, more)
    content: dict[str, Any] = {}
    before = None
    with run_lock(folder):
        for number, (name, stage) in enumerate(plan["stages"].items(), start=1):
            place = folder / f"{number}_{name}"
            console.rule(f"stage {number} of {len(plan['stages'])}: {name}")
            planned = stage_overrides(stage, plan["overrides"])
            content = train_stage(place, planned, more, before, resumed=bool(config["resume"]))
            if STOP.number is not None:  # it arrived at the very end of the stage
                raise Stopped(STOP.number, folder)
            before = str(place)
    return content


def new_plan(config: dict[str, Any], overrides: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    """The folder of a new run, and its plan, which is written there: the stages and the command line.

    Raises:
        UserError: as `train`.
    """
    from tasks.engine.train import new_folder, prepare

    for stage in config["stages"].values():  # a mistake in the last stage is found before the first starts
        check_names(settings := compose_config(stage_overrides(stage, overrides))[0])
        prepare(settings)
    folder = new_folder(config)
    plan = {"stages": config["stages"], "overrides": list(overrides)}
    if is_rank_zero():
        with atomic_write(folder / PLAN, "w") as file:
            yaml.safe_dump(plan, file, sort_keys=False)
    return folder, plan


def train_stage(
    place: Path, planned: Sequence[str], more: Sequence[str], before: str | None, resumed: bool
) -> dict[str, Any]:
    """Trains a stage in the folder `place`, or what is left of it, and returns its metrics.json. It starts from the
    stage in the folder `before`. `planned` are its settings, and `more` those of the command line if the run is
    `resumed`.

    Raises:
        UserError: as `train`.
    """
    from tasks.engine.train import console, resume, train
    from tasks.engine.training_checkpoints import LAST, PREVIOUS

    if content := finished_metrics(place):
        console.print(f"{place} is finished")
        return content
    if any((place / "checkpoints" / name).exists() for name in (LAST, PREVIOUS)):
        again = [f"resume={place}", *more]
        return resume(compose_config([*saved_groups(str(place)), *again])[0], again)
    settings, _ = compose_config([*planned, *more])
    if resumed:
        check_stage(settings, planned, more, place.parent / PLAN)
        settings = with_stage_data(settings, more)
    settings |= {"stages": None, "resume": None, "ckpt": before or settings["ckpt"]}
    return train(settings, folder=place, generate_demo=not resumed)


def stage_overrides(stage: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Settings of the command line apply to all stages and override the experiment's."""
    groups = [o for o in overrides if o.startswith("experiment=")]
    return [*groups, *stage, *(o for o in overrides if o not in groups and not o.startswith(("name=", "resume=")))]


def with_stage_data(settings: dict[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """The settings of a stage, or of each of its tasks. Data settings of the untrusted plan, unlike those `given`, may
    name files only inside data.root.
    """
    own, parts = split_by_task(given)
    if "parts" in settings:
        found = {name: with_stage_data(part, parts.get(name, [])) for name, part in settings["parts"].items()}
        return settings | {"parts": found}
    named = {*map(key_of, own)}
    data = {k: v for k, v in settings["data"].items() if f"data.{k}" not in named or k == "root"}
    return settings | {"data": settings["data"] | below_root(data, None)}


def finished_metrics(place: Path) -> dict[str, Any]:
    """The metrics.json of a finished stage; empty for any other."""
    content = read_json_object(place / "metrics.json")
    return content if content.get("state") == "finished" else {}
