"""How many processors this process may use. Nothing here imports torch."""

import math
import os
import platform
import statistics
import time
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
PROCESSES = Path("/proc")


def allowed() -> set[int]:
    """The processors that this process may run on; empty if the system does not say."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def usable_cores() -> int:
    """The processors that the affinity mask and a container's quota allow this process; at least 1."""
    cores = len(allowed()) or os.cpu_count() or 1
    return max(1, min(cores, quota()))


def quota(root: Path = CGROUPS) -> int:
    """The processors of a control group's CPU quota, rounded up: `docker run --cpus`, a Kubernetes limit. A large
    number if there is no quota, or it cannot be read.
    """
    with suppress(OSError, ValueError, ZeroDivisionError):
        if (root / "cpu.max").exists():  # version 2
            granted, period = (root / "cpu.max").read_text().split()
        else:
            granted, period = ((root / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if granted != "max" and int(granted) > 0:
            return math.ceil(int(granted) / int(period))
    return 1 << 16


def others_running(processes: Path = PROCESSES) -> int:
    """How many other processes run, or wait to run, on the processors that this one may use; in a container, only
    the container's are counted. 0 if the system does not say.
    """
    own, found = allowed(), []
    for _ in range(5):
        running = 0
        for process in processes.glob("[0-9]*"):
            with suppress(OSError, ValueError, IndexError):  # some end in the meantime
                state, *fields = (process / "stat").read_text().rpartition(")")[2].split()  # proc(5)
                running += state == "R" and int(fields[35]) in own and int(process.name) != os.getpid()
        found.append(running)
        time.sleep(0.01)
    return int(statistics.median(found))


def share_cores() -> None:
    """Lets waiting OpenMP threads sleep instead of spin, unless the environment says how they wait. They wait for each
    other dozens of times in a training step, and a spinning thread blocks its core for others. With sleeping threads,
    a step takes a third of the time if two trainings run at once, and a sixth more if one runs alone (BENCHMARKS.md,
    Shared cores). libgomp reads the variable when torch is loaded.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def processor_name() -> str:
    """The model name of this machine's processor, if known."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "an unknown processor"
