"""A run of the task geo and a gallery of its photos, which the tests of this folder read and do not change."""

from pathlib import Path

import pytest
import torch

from backbones.errors import UserError
from tasks.engine.config import load_config
from tasks.gallery.__main__ import run as gallery
from tests.conftest import command, make_irregular


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of two epochs on 160 photos."""
    root = tmp_path_factory.mktemp("geo")
    tiny = ["backbone.alpha=0.25", "task.resolution=64", "data.batch_size=16", "data.workers=0", "data.size=64"]
    counts = ["data.train=160", "data.val=12", "data.gallery=60", "data.generated=true"]
    where = ["data=demo_earth", f"data.root={root / 'earth'}", f"paths.runs={root / 'runs'}", "name=tiny"]
    result = command("run", "task=geo", *tiny, *counts, *where, "trainer.max_epochs=2", "logger.images=2")
    assert result.returncode == 0, result.stderr
    return root / "runs" / "geo" / "tiny"


def ask(run: Path, **settings: object) -> None:
    """Runs the gallery command in this process."""
    gallery(load_config([f"ckpt={run}", *(f"{k}={v}" for k, v in settings.items())], "gallery"))


@pytest.fixture(scope="session")
def built(run: Path) -> Path:
    """Its gallery of 60 photos, built by one process with one thread, like those of the other tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ask(run, mode="build", shard_size=7, batch_size=3)
    torch.set_num_threads(threads)
    return run / "gallery"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def put(path: Path, content: bytes | str | None) -> None:
    """Replaces a file by one of this content, by what is not a regular file (see `make_irregular`), or by nothing."""
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        make_irregular(path, content)


def refused(run: Path, words: str, **settings: object) -> None:
    with pytest.raises(UserError) as error:
        ask(run, **settings)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
