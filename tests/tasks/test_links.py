"""Links, pipes and devices in what another person made: nothing is written through them, and nothing waits."""

import os
from pathlib import Path

import pytest

from backbones.errors import UserError
from tasks.engine.train import only_one


def test_holding_a_run_empties_no_file(tmp_path: Path) -> None:
    victim, run = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious")
    run.mkdir()
    for make in (lambda path: path.symlink_to(victim), os.mkfifo):
        make(run / ".lock")
        with pytest.raises(UserError, match="cannot be written"), only_one(run):
            pass
        (run / ".lock").unlink()
    os.link(victim, run / ".lock")
    with only_one(run):
        pass
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", ["checkpoints", "dogs", "1_first"])
def test_a_run_writes_into_no_linked_folder(name: str, tmp_path: Path) -> None:
    """Checkpoints, a part's images, a stage."""
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"{name} is a link"), only_one(tmp_path / "run"):
        pass
