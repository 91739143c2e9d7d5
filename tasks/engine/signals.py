"""SIGTERM and SIGINT: a run stops at the end of a step and says how to go on. Nothing here imports torch."""

import multiprocessing
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from subprocess import Popen
from types import FrameType
from typing import Any

TWICE = 1.0  # seconds within which a signal that comes again is the same one: `timeout` sends its own twice


class Stopped(SystemExit):
    """A signal ends the program, with the status that shells give it: 128 and its number."""

    def __init__(self, number: int, folder: Path | None = None) -> None:
        super().__init__(128 + number)
        self.number = number
        self.folder = folder  # of the run to go on with

    def __str__(self) -> str:
        again = f"; go on with: python -m tasks.run {shlex.quote(f'resume={self.folder}')}" if self.folder else ""
        return f"stopped by {signal.Signals(self.number).name}{again}"


class Stop:
    """The signal that came, if one did. It raises `Stopped` at once, or where training is `deferred`, leaves that to
    the end of a step; a second one ends the program wherever it is.
    """

    def __init__(self) -> None:
        self.owner: int | None = None  # the process that heeds it
        self.number: int | None = None
        self.deferred = False
        self.validating = False
        self.launcher: Any = None  # Lightning's, of the processes on other devices

    def install(self) -> None:
        self.owner = os.getpid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self)

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
                print(f"{name}: stopping after this validation; a second one ends at once", file=sys.stderr, flush=True)
        elif time.monotonic() - self.came > TWICE:
            self.end_processes()
            os._exit(128 + number)

    def stop(self) -> None:
        """Raises `Stopped` where a signal came."""
        if self.number is not None:
            self.end_ranks()
            raise Stopped(self.number)

    def end_ranks(self) -> None:
        """Ends the processes on other devices, which would wait for this one for ever, or print that it is gone."""
        started: list[Popen] = getattr(self.launcher, "procs", [])
        ranks = [*started]
        started.clear()  # Lightning watches this list, and would kill this process as well
        for process in ranks:
            process.kill()

    def end_processes(self) -> None:
        """Ends the loaders as well."""
        self.end_ranks()
        for process in multiprocessing.active_children():
            process.kill()


STOP = Stop()
