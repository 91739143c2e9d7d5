"""Threads and loader processes by the processors that a process may use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backbones.processors import quota
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 1 << 16),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1 << 16),
        ({"cpu.max": "nonsense"}, 1 << 16),
        ({}, 1 << 16),
    ],
)
def test_quotas_of_containers(files: dict[str, str], cores: int, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert quota(tmp_path) == cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity masks are Linux's")
def test_a_process_of_one_core_uses_one() -> None:
    program = (
        "import os, torch; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from tasks.engine.hardware import use_granted_cores\n"
        "use_granted_cores()\n"
        "print(torch.get_num_threads())"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["1"]


@pytest.mark.parametrize(
    ("given", "wanted"), [({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")]
)
def test_waiting_threads_soon_sleep(given: dict[str, str], wanted: str) -> None:
    """As a command sets it before torch is loaded, unless the user has."""
    program = "import os, sys, tasks.run; print('torch' in sys.modules, os.environ.get('GOMP_SPINCOUNT'))"
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")} | given
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["False", wanted]
