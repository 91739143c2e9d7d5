"""python -m tasks.run: trains a task. See --help."""

import sys
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from backbones.errors import UserError
from tasks.config import CONF, load_config, one_line_errors
from tasks.stages import is_staged, train_stages

HELP = {"--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--version"}


def jobs(overrides: list[str]) -> list[list[str]]:
    """The overrides of each run of a sweep."""
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except hydra.errors.OverrideParseException as error:
        raise UserError(str(error).splitlines()[0]) from error
    return [job for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]


def execute(overrides: list[str]) -> dict[str, Any]:
    config = load_config(overrides)
    if is_staged(config):
        return train_stages(config, overrides)
    from tasks.train import train  # torch is imported only now that the configuration is valid

    return train(config, overrides)


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def sweep(_: DictConfig) -> float:
    """One job of a sweep, started by Hydra's launcher."""
    overrides = list(HydraConfig.get().overrides.task)
    with one_line_errors():
        return execute(overrides)["metrics"]["primary"]


def main() -> None:
    arguments = sys.argv[1:]
    if HELP & {a.split("=")[0] for a in arguments}:
        sweep()
        return
    overrides = [a for a in arguments if not a.startswith("-")]
    with one_line_errors():
        if {"-m", "--multirun"} & set(arguments):
            for job in jobs(overrides):  # a mistake in the last of ten runs is found before the first starts
                load_config(job)
            sweep()
        else:
            execute(overrides)


if __name__ == "__main__":
    main()
