"""New measurements: which earlier ones they replace in BENCHMARKS.md."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import __main__ as benchmarks
from tests.conftest import ROOT

PAGE = "# Benchmarks\n\n## Geo-localization\nProse of 2026-11-22: 112 times.\n\n## Comparing runs\nMore.\n"


def test_a_machine_s_figures_replace_its_own_and_no_other_s(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(machine: str, command: str, printed: str, text: str, heading: str = "Geo-localization") -> str:
        monkeypatch.setattr(benchmarks, "machine", lambda: machine)
        return benchmarks.updated(text, heading, benchmarks.block(command, printed, 0.0))

    text = measured("2 cores of A", "geo", "100 times", PAGE)
    text = measured("2 cores of B", "geo --points 9", "90 times", text)
    text = measured("2 cores of A", "geo_retrieval", "1 ms", text)
    text = measured("2 cores of A", "compare", "3 s", text, "Comparing runs")
    again = measured("2 cores of A", "geo", "110 times\n\n(noisy)", text)
    geo, runs = again.split("## Comparing runs")
    assert "Prose of 2026-11-22: 112 times.\n" in geo
    assert "100 times" not in geo
    assert [geo.count(printed) for printed in ("90 times", "1 ms", "110 times\n\n(noisy)\n```\n")] == [1, 1, 1]
    assert runs.startswith("\nMore.\n\n2")
    assert runs.endswith("$ python -m tests.benchmarks.compare\n3 s\n```\n")
    assert measured("2 cores of A", "geo", "110 times\n\n(noisy)", again) == again


def test_every_script_is_listed_with_its_section() -> None:
    text = (ROOT / "BENCHMARKS.md").read_text()
    for heading in benchmarks.SECTIONS.values():
        assert f"\n## {heading}\n" in text
    scripts = {path.stem for path in (ROOT / "tests/benchmarks").glob("*.py")} - {"__init__", "__main__", "timing"}
    assert scripts == {command.split()[0] for command in benchmarks.SECTIONS} | set(benchmarks.OTHERS)


def test_a_script_that_needs_more_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "finetune", "--into", str(tmp_path / "page.md")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("finetune needs photographs: start it by hand; choose from detection, ")
