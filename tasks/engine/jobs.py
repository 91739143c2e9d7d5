"""Jobs of a sweep, started by Hydra's launchers: on this machine, or by submitit on a cluster."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from backbones.console import Console
from backbones.errors import UserError
from tasks.engine.names import run_folder
from tasks.engine.processes import is_rank_zero
from tasks.engine.signals import STOP, Stopped
from tasks.engine.untrusted import is_staged

EXTRAS = {"submitit_slurm": "slurm", "submitit_local": "slurm", "joblib": "joblib", "ray": "ray", "optuna": "optuna"}
RESUBMIT = signal.SIGUSR2  # the signal that submitit requests before a job's time limit


class SweepReport(Callback):
    """Prints where a sweep is written: at its start and, if its jobs print to their own files, at its end."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self.elsewhere = config.hydra.runtime.choices["hydra/launcher"] != "basic"
        logs = "; its jobs print to .submitit/*/*_log.out there" if "submitit_folder" in config.hydra.launcher else ""
        Console().print(f"sweep        {config.hydra.sweep.dir}{logs}", soft_wrap=True)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        if self.elsewhere:
            Console().print(f"trade-off    {config.hydra.sweep.dir}/tradeoff.png", soft_wrap=True)


def check_plugins(overrides: Sequence[str]) -> None:
    """Raises UserError if a requested launcher or sweeper is not installed."""
    Plugins.instance()  # finds the installed ones
    for override in overrides:
        group, _, option = override.partition("=")
        if group not in ("hydra/launcher", "hydra/sweeper"):
            continue
        known = [name.removesuffix(".yaml") for name in ConfigStore.instance().list(group)]
        if option not in known:
            known += [f"{name} (pip install '.[{extra}]')" for name, extra in EXTRAS.items() if name not in known]
            raise UserError(f"{override}: choose from {', '.join(sorted(known))}")


def install_signal_handlers() -> None:
    """On a signal, a run's first process stops after the current step and ends the others, which ignore it."""
    if is_rank_zero():
        STOP.install()
        return
    for number in (signal.SIGINT, signal.SIGTERM, RESUBMIT):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def job_environment() -> Iterator[None]:
    """Gives a job the ranks and signal handlers of a command, and restores the environment afterwards.

    On submitit's signal the run is saved first; then submitit submits the job again, which resumes the run.
    """
    environment, resubmit = os.environ.copy(), signal.getsignal(RESUBMIT)
    try:
        join_job()
        if STOP.owner != os.getpid():
            install_signal_handlers()
        if "SUBMITIT_EXECUTOR" in os.environ and is_rank_zero():
            signal.signal(RESUBMIT, STOP)
        yield
    except Stopped as stopped:
        print(stopped, file=sys.stderr, flush=True)
        if stopped.number == RESUBMIT and callable(resubmit):
            resubmit(RESUBMIT, None)
        raise
    finally:
        os.environ.clear()
        os.environ.update(environment)


class JobFailed(Exception):
    """A job of a sweep ended with an error that was printed. Unlike SystemExit, it lets Hydra run the other jobs."""


@contextmanager
def job_errors() -> Iterator[None]:
    """Ends a sweep with the first error of its jobs. One that a job on another node printed is reported by a launcher
    together with the job's whole log.

    Raises:
        UserError: a job ended with an error.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints the error and exits
    try:
        yield
    except JobFailed as error:
        raise UserError(f"a job of the sweep failed: {error}") from error
    except Exception as error:
        told = [line for line in str(error).splitlines() if line.startswith("error: ")]
        if not told:
            raise
        raise UserError(f"a job of the sweep failed: {told[-1].removeprefix('error: ')}") from error


def join_job() -> None:
    """Sets torchrun's environment variables in the processes of a submitit job with several tasks."""
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return
    from submitit.helpers import TorchDistributedEnvironment

    job = TorchDistributedEnvironment()
    if job.world_size > 1:
        job.export(set_cuda_visible_devices=False, overwrite=True)
        os.environ["GROUP_RANK"] = str(job.rank // job.local_world_size)


def existing_run(config: Mapping[str, Any]) -> Path | None:
    """The folder of the run with this name, if it has begun already."""
    folder = run_folder(config)
    return folder if (folder / "config.yaml").exists() or is_staged(str(folder)) else None


def train_in_subprocess(overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """Trains in a separate process, which a run that starts further processes needs, as they repeat its command line.
    Returns the content of metrics.json, of the last stage if there are several.
    """
    with subprocess.Popen([sys.executable, "-m", "tasks.run", *overrides]) as process:
        try:
            status = process.wait()
        except Stopped:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise
    if status:
        raise JobFailed(f"it ended with status {status}")
    written = [*folder.glob("metrics.json"), *folder.glob("*/metrics.json")]
    content: dict[str, Any] = json.loads(max(written, key=lambda path: path.stat().st_mtime).read_text())
    return content
