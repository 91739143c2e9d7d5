"""docs/tour.ipynb runs from top to bottom, in its fast variant."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests import notebook
from tests.conftest import ROOT, as_main


@pytest.fixture(scope="module")
def cells() -> list[dict[str, Any]]:
    return [cell for cell in json.loads(notebook.NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_it_runs(
    cells: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = notebook.NOTEBOOK.read_bytes()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with as_main("notebook", ["--fast", "--folder", str(tmp_path)], ROOT):
        notebook.main()
    assert len(re.findall(r"^ *[\d.]+ s  ", capsys.readouterr().out, flags=re.M)) == len(cells)
    assert notebook.NOTEBOOK.read_bytes() == before
    assert {p.name for p in (tmp_path / "runs").iterdir()} >= {"detection", "compare.html"}


def test_what_is_kept_is_small_and_of_no_machine() -> None:
    text = notebook.NOTEBOOK.read_text()
    assert len(text) < 1_000_000
    for folder in (str(Path.home()), str(ROOT), "/tmp"):
        assert f"{folder}/" not in text
