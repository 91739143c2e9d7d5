"""python -m tasks.run: trains a task. See --help."""

import os
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.singleton import Singleton
from omegaconf import DictConfig

from backbones.errors import UserError, first_line
from backbones.processors import others_running, share_cores, usable_cores
from tasks.engine.config import CONF, expand_home, one_line_errors, resume_paths, saved_groups, user_message
from tasks.engine.help import help_text
from tasks.engine.jobs import (
    JobFailed,
    check_plugins,
    existing_run,
    install_signal_handlers,
    job_environment,
    job_errors,
    train_in_subprocess,
)
from tasks.engine.multitask_config import JOINT, compose_config, for_hydra, from_hydra, is_joint
from tasks.engine.names import check_names, run_folder, run_name
from tasks.engine.processes import is_rank_zero, started_by_launcher
from tasks.engine.signals import REQUEUE, Stopped, requeue
from tasks.engine.stages import train_stages
from tasks.engine.untrusted import is_staged, to_resume

HELP = {"--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--version"}
SWEEP = {"-m", "--multirun"}


def jobs(overrides: list[str]) -> list[list[str]]:
    """The overrides of each run of a sweep, without those for which a sweeper will choose values from an interval."""
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except hydra.errors.OverrideParseException as error:
        raise UserError(first_line(error)) from error
    listed = [o for o in parsed if o.is_discrete_sweep() or not o.is_sweep_override()]
    return [job for batch in BasicSweeper.split_arguments(listed, None) for job in batch]


def execute(overrides: list[str], again: bool = False) -> dict[str, Any]:
    """Trains what the overrides describe; with `again`, a run that has begun before is resumed."""
    folders = resume_paths(overrides)
    if folders and is_staged(folders[-1]):
        return train_stages({"resume": folders[-1]}, overrides)
    config, description = compose_config([*(saved_groups(folders[-1]) if folders else []), *overrides])
    check_names(config)
    again |= os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    if again and not folders and (folder := existing_run(config)):
        return execute(to_resume(folder, overrides, config))
    if config["stages"]:
        return train_stages(config, overrides)
    from tasks.engine.train import resume, train  # torch is imported only now that the configuration is valid

    return resume(config, overrides) if config["resume"] else train(config, layout=description)


def execute_in_subprocess(overrides: list[str], again: bool) -> dict[str, Any]:
    """Like `execute`, for a run that starts processes for further devices."""
    if folders := resume_paths(overrides):
        return train_in_subprocess(overrides, Path(folders[-1]))
    config = compose_config(overrides)[0]
    check_names(config)
    folder = run_folder(config)
    if again and existing_run(config):
        overrides = to_resume(folder, overrides, config)
    return train_in_subprocess(overrides, folder)


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def with_hydra(config: DictConfig) -> float:
    """Runs one job of a sweep, wherever Hydra's launcher starts it, or handles Hydra's own flags, such as --cfg."""
    job, state = HydraConfig.get(), Singleton.get_state()
    overrides = [from_hydra(o) for o in job.overrides.task]
    sweep = Path(job.sweep.dir)
    own = not any(o.startswith(("name=", "resume=")) for o in overrides)
    if own:  # a job that is started again finds its own run, and no other
        overrides.append(f"name={run_name(f'{sweep.name}-{job.job.num}', config.backbone)}")
    GlobalHydra.instance().clear()  # needed to compose again, which checks the settings; restored below
    try:
        with job_environment():
            alone = config.trainer.devices == 1 or started_by_launcher()
            content = execute(overrides, again=own) if alone else execute_in_subprocess(overrides, again=own)
            if is_rank_zero():
                from tasks.compare.tradeoff import add_to_sweep

                add_to_sweep(sweep, content)
            return content["metrics"]["primary"]
    except Exception as error:
        if (message := user_message(error)) is None:
            raise
        print("error:", message, file=sys.stderr, flush=True)
        raise JobFailed(message) from error
    finally:
        Singleton.set_state(state)


def main() -> None:
    install_signal_handlers()
    if not is_rank_zero():
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  # the first process prints the same
    try:
        run()
    except Stopped as stopped:
        print(stopped, file=sys.stderr, flush=True)
        if stopped.number == REQUEUE:
            requeue()
        raise


def check_sweep(overrides: list[str]) -> bool:
    """Checks the settings of all runs of a sweep, so that a mistake in the last is found before the first starts.
    Returns whether one of them is of several tasks.

    Raises:
        UserError: as `compose_config`, or several runs would have the same name.
    """
    several, taken = False, set()
    searched = any("=interval(" in o for o in overrides)
    for job in jobs(overrides):
        check_names(config := compose_config(job)[0])
        several |= is_joint(job)
        place = config["task"]["name"], config["name"]
        if config["name"] and (searched or place in taken):
            raise UserError(f"name={config['name']}: several runs of this sweep would have it; leave it out")
        taken.add(place)
    return several


def run() -> None:
    sys.argv[1:] = [expand_home(a) for a in sys.argv[1:]]  # Hydra, and processes for further devices, read them again
    flags = [a for a in sys.argv[1:] if a.startswith("-")]
    given = [a for a in sys.argv[1:] if not a.startswith("-")]
    hydras = [a for a in given if a.lstrip("+~").startswith(("hydra/", "hydra."))]
    overrides = [a for a in given if a not in hydras]
    if 2 * others_running() >= usable_cores() or any(a.startswith("hydra/launcher=") for a in hydras):
        share_cores()
    with one_line_errors():
        if unknown := [f for f in flags if f.split("=")[0] not in {*HELP, *SWEEP}]:
            raise UserError(f"unknown flag {unknown[0]}; settings are key=value, without dashes")
        if {"--help", "-h"} & set(flags):
            print(help_text(overrides), end="")
            return
        several = f"task={JOINT}" in overrides
        if hydras and not flags:
            raise UserError(f"{hydras[0]} applies to a sweep only: add -m")
        if SWEEP & set(flags):
            check_plugins(hydras)
            several |= check_sweep(overrides)
        elif not flags:
            execute(overrides)
            return
    if several:
        sys.argv[1:] = [a if a.startswith("-") else for_hydra(a) for a in sys.argv[1:]]
    with one_line_errors(), job_errors():
        with_hydra()


if __name__ == "__main__":
    main()
