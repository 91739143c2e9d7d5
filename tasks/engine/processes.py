"""The processes of a run on several devices: who started them, and a watchdog, as the others would hang if one died."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from subprocess import Popen
from typing import Any

from backbones.errors import UserError

POLL_SECONDS = 0.5
GRACE_SECONDS = 10.0  # for the training to notice by itself


def started_by_launcher() -> bool:
    """Whether torchrun or a cluster's launcher started all processes of this run; else the first starts the others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and {"RANK", "LOCAL_RANK"} <= os.environ.keys()


def is_rank_zero() -> bool:
    """Whether this is a run's process of rank 0, which starts the others, or writes the files that all share."""
    return os.environ.get("RANK" if started_by_launcher() else "LOCAL_RANK", "0") == "0"


def check_processes(settings: Mapping[str, Any]) -> None:
    """Checks that a run's `trainer` settings fit the processes that were started.

    Raises:
        UserError: they do not.
    """
    nodes, devices = settings["num_nodes"], settings["devices"]
    if not started_by_launcher():
        if int(tasks := os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
            raise UserError(f"srun started this command {tasks} times: use --ntasks-per-node=1 and start torchrun")
        if nodes > 1:
            raise UserError(f"trainer.num_nodes={nodes}: start it with torchrun on each node, or with hydra/launcher")
        return
    world = int(os.environ["WORLD_SIZE"])
    if devices == "auto" or nodes * devices != world:
        raise UserError(
            f"trainer.num_nodes={nodes} trainer.devices={devices}: {world} processes were started; set "
            "trainer.devices to the number of processes on each node"
        )


def take_over(launcher: Any, processes: list[Popen]) -> None:
    """Moves the processes that Lightning's launcher has started to `processes`: Lightning watches those on its own
    list, and would kill this process without a message.
    """
    started: list[Popen] = getattr(launcher, "procs", [])  # only the launcher that starts processes has this list
    processes += started
    started.clear()


class ProcessWatch(threading.Thread):
    """Watches the processes that `launcher` started, or the one that started this one. If one of them ends too early,
    `words` says so, and if training is not `over` soon after, this process ends: on a GPU it would wait half an hour.
    """

    def __init__(self, launcher: Any, started: list[Popen], end: Callable[[], None], go_on: str) -> None:
        super().__init__(daemon=True, name="process-watch")
        self.launcher, self.started = launcher, started
        self.parent = None if is_rank_zero() else os.getppid()
        self.end, self.go_on = end, go_on
        self.words = ""
        self.noticed, self.over = threading.Event(), threading.Event()

    def run(self) -> None:
        while not self.over.wait(POLL_SECONDS):
            take_over(self.launcher, self.started)
            lost = self.lost()
            if lost:
                self.words = f"{lost}, so this run ends too; resume with: {self.go_on}"
                self.end()
                self.noticed.set()
                if not self.over.wait(GRACE_SECONDS):
                    print(f"error: {self.words}", file=sys.stderr, flush=True)
                    os._exit(2)
                return

    def lost(self) -> str:
        if self.parent is not None:
            return "the first process of this run ended" if os.getppid() != self.parent else ""
        processes = [*self.started]
        for number, process in enumerate(processes, start=2):
            if status := process.poll():
                how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
                return f"process {number} of {len(processes) + 1} ended {how}"
        return ""
