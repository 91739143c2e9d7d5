"""python -m tasks.run: trains a task. See --help."""

import os
import signal
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

from backbones.errors import UserError
from tasks.engine.config import CONF, one_line_errors, saved_groups
from tasks.engine.names import check_names
from tasks.engine.parts import JOINT, composed, for_hydra, from_hydra, is_joint
from tasks.engine.saved import is_staged
from tasks.engine.signals import REQUEUE, STOP, Stopped, requeue
from tasks.engine.stages import train_stages

HELP = {"--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--version"}
SWEEP = {"-m", "--multirun"}


def jobs(overrides: list[str]) -> list[list[str]]:
    """The overrides of each run of a sweep."""
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except hydra.errors.OverrideParseException as error:
        raise UserError(str(error).splitlines()[0]) from error
    return [job for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]


def execute(overrides: list[str]) -> dict[str, Any]:
    resume = [o.partition("=")[2] for o in overrides if o.startswith("resume=")]
    staged = bool(resume) and is_staged(resume[-1])
    if staged:
        return train_stages({"resume": resume[-1]}, overrides)
    config, told = composed([*(saved_groups(resume[-1]) if resume else []), *overrides])
    check_names(config)
    begun = Path(config["paths"]["runs"]) / config["task"]["name"] / str(config["name"])
    if os.environ.get("SLURM_RESTART_COUNT", "0") != "0" and not resume and begun.is_dir():
        return execute([f"resume={begun}"])
    if config["stages"]:
        return train_stages(config, overrides)
    from tasks.engine.train import train  # torch is imported only now that the configuration is valid

    return train(config, overrides, layout=told)


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def with_hydra(_: DictConfig) -> float:
    """One job of a sweep, started by Hydra's launcher; or Hydra's own flags, as --help."""
    overrides = [from_hydra(o) for o in HydraConfig.get().overrides.task]
    state = Singleton.get_state()  # composing anew, which checks the settings, would end Hydra's own turn
    GlobalHydra.instance().clear()
    sweep = Path(HydraConfig.get().sweep.dir)
    try:
        with one_line_errors():
            content = execute(overrides)
            from tasks.compare.tradeoff import add_to_sweep

            add_to_sweep(sweep, content)
            return content["metrics"]["primary"]
    finally:
        Singleton.set_state(state)


def main() -> None:
    if os.environ.get("LOCAL_RANK", "0") != "0":  # a further process of a run, which the first one ends
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    else:
        STOP.install()
    try:
        run()
    except Stopped as stopped:
        print(stopped, file=sys.stderr, flush=True)
        if stopped.number == REQUEUE:
            requeue()
        raise


def run() -> None:
    flags = [a for a in sys.argv[1:] if a.startswith("-")]
    overrides = [a for a in sys.argv[1:] if not a.startswith("-")]
    with one_line_errors():
        if unknown := [f for f in flags if f.split("=")[0] not in {*HELP, *SWEEP}]:
            raise UserError(f"unknown flag {unknown[0]}; settings are key=value, without dashes")
        several = f"task={JOINT}" in overrides
        if SWEEP & set(flags):
            for job in jobs(overrides):  # a mistake in the last of ten runs is found before the first starts
                check_names(composed(job)[0])
                several |= is_joint(job)
        elif not flags:
            execute(overrides)
            return
    if several:
        sys.argv[1:] = [a if a.startswith("-") else for_hydra(a) for a in sys.argv[1:]]
    with_hydra()


if __name__ == "__main__":
    main()
