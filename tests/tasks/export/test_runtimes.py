"""What native libraries print while a file is written or opened."""

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from backbones.errors import UserError
from tasks.export.formats import FORMATS, Format
from tasks.export.runtimes import at_level, silenced
from tasks.export.to_torch import Runner


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


def test_threads_are_silenced_in_turn(capfd: pytest.CaptureFixture[str]) -> None:
    """Otherwise the second would restore the first one's log, and whatever is printed afterwards would be lost."""
    inside, also_inside, leave = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with silenced():
            inside.set()
            leave.wait(60)

    def second() -> None:
        with silenced():
            also_inside.set()
            one.join(60)

    one, other = threading.Thread(target=first), threading.Thread(target=second)
    one.start()
    inside.wait(60)
    other.start()
    assert not also_inside.wait(0.5)
    leave.set()
    for thread in (one, other):
        thread.join(60)
    os.write(1, b"ours")
    assert capfd.readouterr() == ("ours", "")


@pytest.mark.parametrize("name", FORMATS)
def test_no_runtime_waits_for_a_pipe(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Format, "check_runtime", lambda *_: None)
    path = tmp_path / f"model{FORMATS[name].suffix}"
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"not a regular file|there is no checkpoint") as error:
        Runner(path) if name == "torch" else FORMATS[name].runner(path, 1)
    assert "\n" not in str(error.value)


def test_levels_of_loggers_are_restored() -> None:
    root, own = logging.getLogger(), logging.getLogger("a.library")
    before = root.level

    def fail() -> None:
        with at_level(logging.CRITICAL, "root", "a.library"):
            assert (root.level, own.level) == (logging.CRITICAL, logging.CRITICAL)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert (root.level, own.level) == (before, logging.NOTSET)
