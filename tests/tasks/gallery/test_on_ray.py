"""A gallery's parts as tasks of Ray on a local cluster, one of whose workers is killed."""

import importlib.util
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from backbones.errors import UserError
from tasks.gallery.on_ray import check_cluster
from tests.conftest import ROOT, kill_ray_worker, wait_until
from tests.tasks.gallery.conftest import ask, contents

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs pip install '.[ray]'")


def start(run: Path, folder: Path, *more: str) -> subprocess.Popen[str]:
    """A build with paths relative to the folder in which it starts."""
    settings = [f"ckpt={os.path.relpath(run, folder)}", "mode=build", "folder=gallery", "shard_size=7", "batch_size=3"]
    words = [sys.executable, "-m", "tasks.gallery", *settings, "ray=local", "of=3", *more]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OF_TEST": str(folder)}
    return subprocess.Popen(
        words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@needs_ray
def test_a_worker_that_dies_is_replaced(run: Path, built: Path, tmp_path: Path) -> None:
    process = start(run, tmp_path)
    try:
        wait_until(lambda: kill_ray_worker(b"ray::embed_part", str(tmp_path)), process)
        output, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "3 of 3 parts are embedded" in output
    assert contents(tmp_path / "gallery") == contents(built)


@needs_ray
def test_an_error_of_a_part_is_one_line(run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("no,table\n")
    process = start(run, tmp_path, "source=a.csv")
    try:
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 2
    assert re.search(r"^error: a part ended: .*a\.csv", errors, re.MULTILINE)


def test_where_nothing_answers() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="refused"):
            check_cluster(f"127.0.0.1:{taken.getsockname()[1]}")
    with pytest.raises(ValueError, match="invalid literal"):
        check_cluster("127.0.0.1:port")
    for address in ("local", "auto"):  # which only Ray can resolve
        check_cluster(address)


def test_ray_needs_parts_and_one_process(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UserError, match=r"ray= needs of=<how many parts>"):
        ask(run, mode="build", folder=tmp_path, ray="local")
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "2" if name == "WORLD_SIZE" else "0")
    with pytest.raises(UserError, match=r"ray= starts the processes itself"):
        ask(run, mode="build", folder=tmp_path, ray="local", of=2)
