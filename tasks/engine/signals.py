"""SIGTERM and SIGINT stop a run at the end of a step, and it prints how to resume it. SIGUSR1 under SLURM does the same
and queues the job again. Nothing here imports torch.
"""

import multiprocessing
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from subprocess import Popen, TimeoutExpired, run
from types import FrameType
from typing import Any

from tasks.engine.processes import take_over

REQUEUE = signal.SIGUSR1  # the signal that SLURM is asked to send before a job's time limit
DUPLICATE_SECONDS = 1.0  # within which a repeated signal counts as one: `timeout` sends each signal twice


class Stopped(SystemExit):
    """A signal ends the program, with the status that shells give it: 128 and its number."""

    def __init__(self, number: int, folder: Path | None = None) -> None:
        super().__init__(128 + number)
        self.number = number
        self.folder = folder  # of the run to resume

    def __str__(self) -> str:
        again = f"; resume with: {resume_command(self.folder)}" if self.folder else ""
        return f"stopped by {signal.Signals(self.number).name}{again}"


def resume_command(folder: Path) -> str:
    return f"python -m tasks.run {shlex.quote(f'resume={folder}')}"


def requeue() -> None:
    """Makes SLURM run this job again once it has stopped; the command then resumes the run that it names."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{job}_{os.environ['SLURM_ARRAY_TASK_ID']}" if job else os.environ["SLURM_JOB_ID"]
    try:
        result = run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60, check=False)
        words = result.stderr.strip() if result.returncode else ""
    except (OSError, TimeoutExpired) as error:
        words = str(error)
    said = f"job {job} cannot be requeued: {words}" if words else f"requeued job {job}"
    print(said, file=sys.stderr, flush=True)


class Stop:
    """The signal that arrived, if one did. It raises `Stopped` at once or, if `deferred`, at the end of a step;
    a second one ends the program immediately.
    """

    def __init__(self) -> None:
        self.owner: int | None = None  # the process that handles it
        self.number: int | None = None
        self.deferred = False
        self.validating = False
        self.launcher: Any = None  # Lightning's launcher of the processes on other devices
        self.processes: list[Popen] = []  # processes taken over from it

    def install(self) -> None:
        self.owner = os.getpid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self)
        if "SLURM_JOB_ID" in os.environ:
            signal.signal(REQUEUE, self)

    def __call__(self, number: int, _: FrameType | None) -> None:
        if self.owner is None:  # a further process of a run on several devices, where Lightning calls this
            return
        if os.getpid() != self.owner:  # a process that was forked from ours
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif self.number is None:
            self.number, self.came = number, time.monotonic()
            if not self.deferred:
                self.stop()
            if self.validating:
                name = signal.Signals(number).name
                words = f"{name}: stopping after this validation; a second signal ends the run at once"
                print(words, file=sys.stderr, flush=True)
        elif time.monotonic() - self.came > DUPLICATE_SECONDS:
            self.end_all_processes()
            os._exit(128 + number)

    def stop(self) -> None:
        """Raises `Stopped` if a signal has arrived."""
        if self.number is not None:
            self.end_processes()
            raise Stopped(self.number)

    def end_processes(self) -> None:
        """Ends the processes on other devices, which would wait for this one forever, or print that it is gone."""
        take_over(self.launcher, self.processes)
        processes = [*self.processes]
        self.processes.clear()
        for process in processes:
            process.kill()

    def end_all_processes(self) -> None:
        """Ends the processes on other devices, and the loaders."""
        self.end_processes()
        for process in multiprocessing.active_children():
            process.kill()


STOP = Stop()
