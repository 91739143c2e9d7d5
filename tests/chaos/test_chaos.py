"""A sample of `make chaos`."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

# Both in one process, as importing takes seconds, but not in this one, which has threads: they fork.
DRIVER = """
import sys
from tests.chaos import killed, mutated
sys.argv[1:] = ["--kills", "7"]
killed.main()
sys.argv[1:] = ["--count", "100"]
mutated.main()
"""


@pytest.fixture(scope="module")
def output() -> list[str]:
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DRIVER]
    result = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, timeout=1800, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.splitlines()


def test_killed_commands_leave_whole_files_and_go_on_to_the_same_end(output: list[str]) -> None:
    """Each command once."""
    assert "7 kills" in output


def test_only_our_own_errors(output: list[str]) -> None:
    """For damaged files of every format."""
    assert output[-1].startswith("100 files, 0 with another error than ours")
