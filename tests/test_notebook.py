"""docs/tour.ipynb runs from top to bottom, in its fast variant, and shows what came out of a whole one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.notebook import NOTEBOOK


@pytest.fixture(scope="module")
def cells() -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_it_runs(cells: list[dict[str, Any]], tmp_path: Path) -> None:
    before = NOTEBOOK.read_bytes()
    result = subprocess.run(
        [sys.executable, "-m", "tests.notebook", "--fast", "--folder", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(re.findall(r"^ *[\d.]+ s  ", result.stdout, flags=re.M)) == len(cells)
    assert NOTEBOOK.read_bytes() == before
    assert {p.name for p in (tmp_path / "runs").iterdir()} >= {"detection", "compare.html"}


def test_its_outputs_are_kept(cells: list[dict[str, Any]]) -> None:
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell["outputs"] for cell in cells)
    assert NOTEBOOK.stat().st_size < 1_000_000
    text = NOTEBOOK.read_text()
    assert str(Path.home()) not in text
    assert str(ROOT) not in text
