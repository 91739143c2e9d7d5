"""docs/tour.ipynb runs from top to bottom, in its fast variant."""

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


def test_what_is_kept_is_small_and_of_no_machine() -> None:
    text = NOTEBOOK.read_text()
    assert len(text) < 1_000_000
    for folder in (str(Path.home()), str(ROOT), "/tmp"):
        assert f"{folder}/" not in text
