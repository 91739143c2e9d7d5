"""What commands for one task say to a run of several."""

import re
from pathlib import Path

import pytest

from backbones.errors import UserError
from tasks.export.__main__ import execute as export
from tasks.export.package import exports_below
from tasks.export.speed import contenders
from tasks.inference import hub


def test_several_tasks_are_measured_and_published_as_exports(patched: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="root=photos applies to one task; export the tasks one by one"):
        export([f"ckpt={patched}", "part=all", "format=torch", "root=photos"])
    folder = export([f"ckpt={patched}", "part=all", "format=torch", f"output={tmp_path}", "max_drop=100"])
    words = re.escape("is a multi-task run: bench an export of one of its tasks (part=<task>)")
    with pytest.raises(UserError, match=words):
        contenders(str(patched), {}, compiled=False)
    with pytest.raises(UserError, match=words):
        contenders(None, exports_below(folder), compiled=False)
    with pytest.raises(UserError, match="is a multi-task run: export it with part=all format=torch and push that"):
        hub.write(str(patched), tmp_path)
    hub.write(str(folder), tmp_path)
    assert "## `dogs`" in (tmp_path / "README.md").read_text()
