"""How many processors this process may use. Nothing here imports torch."""

import math
import os
import platform
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """The processors that the affinity mask and a container's quota allow this process; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
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


def processor_name() -> str:
    """The model name of this machine's processor, if known."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "an unknown processor"
