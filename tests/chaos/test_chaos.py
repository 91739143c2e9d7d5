"""A sample of `make chaos`."""

import os
import subprocess
import sys

from tests.conftest import ROOT


def chaos(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", f"tests.chaos.{module}", *arguments]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, timeout=1800, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.splitlines()[-1]


def test_killed_commands_leave_whole_files_and_go_on_to_the_same_end() -> None:
    """Each command once."""
    assert chaos("killed", "--kills", "7") == "7 kills"


def test_only_our_own_errors() -> None:
    """For damaged files of every format."""
    assert chaos("mutated", "--count", "100").startswith("100 files, 0 with another error than ours")
