"""What native libraries print while a file is written or opened."""

import os
import subprocess
import sys

import pytest

from tasks.export.runtimes import silenced


def test_what_libraries_print_is_kept_off_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with silenced():
        os.write(1, b"delegate created")
        os.write(2, b"a warning of C++")
        subprocess.run([sys.executable, "-c", "print('of a process')"], check=True)
    os.write(1, b"ours")
    assert capfd.readouterr() == ("ours", "")


def test_an_error_brings_what_was_printed_before_it(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with silenced():
            os.write(2, b"why it failed")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    os.write(2, b" - and after")
    assert capfd.readouterr().err == "why it failed - and after"
