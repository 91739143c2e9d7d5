"""How many threads and loader processes there are, by the processors that a process may use."""

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from backbones.processors import others_running, quota, share_cores
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
def test_waiting_threads_sleep(given: dict[str, str], wanted: str | None) -> None:
    """Unless the environment says how they wait."""
    with mock.patch.dict(os.environ, given):
        for name in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} - given.keys():
            os.environ.pop(name, None)
        share_cores()
        assert os.environ.get("OMP_WAIT_POLICY") == wanted


@pytest.mark.parametrize(
    ("others", "words", "wanted"),
    [(0, [], "None"), (64, [], "PASSIVE"), (0, ["-m", "hydra/launcher=joblib"], "PASSIVE")],
)
def test_a_run_beside_others_shares_its_cores(others: int, words: list[str], wanted: str) -> None:
    """The variable is set before torch is loaded, which reads it; the jobs of a launcher do so too."""
    program = (
        "import os, sys, tasks.run as run\n"
        "told = lambda *_: print('torch' in sys.modules, os.environ.get('OMP_WAIT_POLICY'))\n"
        f"run.others_running, run.usable_cores = lambda: {others}, lambda: 64\n"
        "run.execute = run.with_hydra = told\n"
        f"sys.argv = {['run', 'task=dogs', *words]}\n"
        "run.main()"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.split()[-2:] == ["False", wanted]


def test_how_many_others_run(tmp_path: Path) -> None:
    """Only those on this process's processors count."""
    (core, *_) = sorted(os.sched_getaffinity(0))
    for number, state, processor in ((1, "R", core), (2, "S", core), (3, "R", 9999), (os.getpid(), "R", core)):
        (tmp_path / str(number)).mkdir()
        fields = [*map(str, range(4, 39)), str(processor), "0"]
        (tmp_path / str(number) / "stat").write_text(f"{number} (a (b) c) {state} {' '.join(fields)}\n")
    (tmp_path / "5").mkdir()  # a process that has ended
    assert others_running(tmp_path) == 1
    assert others_running(tmp_path / "none") == 0
