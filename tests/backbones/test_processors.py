"""Threads and loader processes by the processors that a process may use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backbones.processors import others_running, quota, share_cores, usable_cores
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
    ("given", "wanted"), [({}, "PASSIVE"), ({"GOMP_SPINCOUNT": "7"}, None), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")]
)
def test_waiting_threads_sleep(given: dict[str, str], wanted: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the user says how they wait."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    share_cores()
    assert os.environ.get("OMP_WAIT_POLICY") == wanted


def test_a_run_beside_others_shares_its_cores() -> None:
    """It is known before torch is loaded, which reads it."""
    program = (
        "import os, sys, tasks.run as run\n"
        "run.execute = lambda overrides: print('torch' in sys.modules, os.environ.get('OMP_WAIT_POLICY'))\n"
        "sys.argv = ['run', 'task=dogs']\n"
        "run.main()"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(max(1, usable_cores() // 2))]
    try:
        result = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert result.stdout.split() == ["False", "PASSIVE"]


def test_how_many_others_run(tmp_path: Path) -> None:
    (tmp_path / "load").write_text("0.20 0.18 0.12 3/80 11206\n")
    assert others_running(tmp_path / "load") == 2
    (tmp_path / "load").write_text("no load")
    assert others_running(tmp_path / "load") == others_running(tmp_path / "none") == 0
