"""Runs whose stages follow each other, each from the best weights of the one before: `stages` of an experiment."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from backbones.files import atomic_write, check_regular
from tasks.engine.config import saved_groups
from tasks.engine.names import check_names
from tasks.engine.parts import composed, with_data
from tasks.engine.ranks import first_process
from tasks.engine.saved import PLAN, below_root, read_plan
from tasks.engine.signals import STOP, Stopped


def train_stages(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Trains the stages that are not finished yet, in folders of their own below the run's, and returns the
    last one's metrics.json.

    Raises:
        UserError: as `train` and `read_plan`.
    """
    from tasks.engine.saving import LAST, PREVIOUS
    from tasks.engine.train import console, new_folder, prepare, run_lock, train

    more = [o for o in overrides if config["resume"] and not o.startswith("resume=")]
    if config["resume"] is None:
        for stage in config["stages"].values():  # a mistake in the last stage is found before the first starts
            check_names(settings := composed(stage_overrides(stage, overrides))[0])
            prepare(settings)
        folder = new_folder(config)
        plan = {"stages": config["stages"], "overrides": list(overrides)}
        if first_process():
            with atomic_write(folder / PLAN, "w") as file:
                yaml.safe_dump(plan, file, sort_keys=False)
    else:
        folder = Path(config["resume"])
        plan = read_plan(folder / PLAN, more)
    content: dict[str, Any] = {}
    before = None
    with run_lock(folder):
        for number, (name, stage) in enumerate(plan["stages"].items(), start=1):
            place = folder / f"{number}_{name}"
            console.rule(f"stage {number} of {len(plan['stages'])}: {name}")
            content = finished(place)
            if content:
                console.print(f"{place} is finished")
            elif any((place / "checkpoints" / name).exists() for name in (LAST, PREVIOUS)):
                again = [f"resume={place}", *more]
                content = train(composed([*saved_groups(str(place)), *again])[0], again)
            else:
                settings, _ = composed([*stage_overrides(stage, plan["overrides"]), *more])
                if config["resume"]:
                    settings = with_data(settings, lambda own: stage_data(own, more))
                settings |= {"stages": None, "resume": None, "ckpt": before or settings["ckpt"]}
                content = train(settings, folder=place, draw=not config["resume"])
            if STOP.number is not None:  # in the stage's last moments
                raise Stopped(STOP.number, folder)
            before = str(place)
    return content


def stage_overrides(stage: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Settings of the command line hold for all stages and override the experiment's."""
    groups = [o for o in overrides if o.startswith("experiment=")]
    return [*groups, *stage, *(o for o in overrides if o not in groups and not o.startswith(("name=", "resume=")))]


def stage_data(data: dict[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """The data settings of a stage, of which a run folder's plan may name what lies below data.root."""
    named = {override.partition("=")[0] for override in given}
    own = {k: v for k, v in data.items() if f"data.{k}" not in named or k == "root"}
    return data | below_root(own, None)


def finished(place: Path) -> dict[str, Any]:
    """The metrics.json of a stage that came to its end, else nothing."""
    try:
        check_regular(place / "metrics.json")
        content = json.loads((place / "metrics.json").read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) and content.get("state") == "finished" else {}
