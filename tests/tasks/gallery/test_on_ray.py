"""A gallery's parts as tasks of Ray on a local cluster, one of whose workers is killed."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from backbones.errors import UserError
from tests.conftest import ROOT, wait_until
from tests.tasks.gallery.test_gallery import ask, built, contents, run  # noqa: F401  # fixtures

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs pip install '.[ray]'")


def workers() -> list[int]:
    """The processes in which Ray runs a part at this moment."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if (place / "cmdline").read_bytes().startswith(b"ray::run"):
                found.append(int(place.name))
        except OSError:  # it ended meanwhile
            continue
    return found


@needs_ray
def test_a_worker_that_dies_is_replaced(run: Path, built: Path, tmp_path: Path) -> None:  # noqa: F811
    settings = [f"ckpt={run}", "mode=build", f"folder={tmp_path}", "shard_size=7", "batch_size=3"]
    words = [sys.executable, "-m", "tasks.gallery", *settings, "ray=local", "of=3"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(workers, process)
        os.kill(workers()[0], signal.SIGKILL)
        output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "3 of 3 parts are embedded" in output
    assert contents(tmp_path) == contents(built)


@needs_ray
def test_an_error_of_a_part_is_one_line(run: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "a.csv").write_text("no,table\n")
    with pytest.raises(UserError, match=r"a part ended: .*a\.csv") as error:
        ask(run, mode="build", folder=tmp_path / "gallery", source=tmp_path / "a.csv", ray="local", of=2)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"ray=127\.0\.0\.1:1: "):
        ask(run, mode="build", folder=tmp_path / "gallery", ray="127.0.0.1:1", of=2)


def test_ray_needs_parts(run: Path, tmp_path: Path) -> None:  # noqa: F811
    words = r"ray= needs of=<how many parts>" if importlib.util.find_spec("ray") else r"pip install '\.\[ray\]'"
    with pytest.raises(UserError, match=words):
        ask(run, mode="build", folder=tmp_path, ray="local")
