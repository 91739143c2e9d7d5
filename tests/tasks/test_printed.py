"""How commands print names that come from files."""

from pathlib import Path

import pytest

from backbones.errors import UserError
from data.base import SuiteData
from tasks.engine.config import one_line_errors
from tasks.engine.report import chosen_metrics, show

NAMES = ("[/nope]", "[red]cat[/]", ":dog:", "\x1b[2J")


def test_the_report_of_a_run_prints_names_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A category named [/nope] made the command fail after all the training."""
    content = {"task": "detection", "epoch": 3, "primary": "ap", "metrics": {f"ap50/{name}": 0.5 for name in NAMES}}
    content |= {"phone_format": "onnx"}
    content["limits"] = ["few examples: [/rare]"]
    data = SuiteData(str(tmp_path))
    data.note = "a note [/of the data]"
    data.bad = {"train": {"[x]/[/y].jpg": "torn"}}
    show(content, tmp_path / "[run]", data)
    printed = capsys.readouterr().out
    for words in (*NAMES[:3], "a note [/of the data]", "few examples: [/rare]", "[x]/[/y].jpg", "[run]"):
        assert words in printed
    assert "\x1b" not in printed


def test_of_many_classes_the_best_and_the_worst_are_printed() -> None:
    metrics = {"ap": 0.5, "ap_small": -1.0, "primary": 0.5}
    for i in range(80):
        metrics |= {f"ap/{i:02}": i / 100 if i else -1.0, f"ap50/{i:02}": i / 90 if i else -1.0}
    kept = chosen_metrics(metrics, "ap")
    assert list(kept) == ["ap", *(f"ap/{i:02}" for i in (79, 78, 77, 76, 75, 74, 6, 5, 4, 3, 2, 1))]
    few = {"ap": 0.5, "ap75": -1.0, "ap/cat": 0.5, "ap50/cat": 0.6, "ap/owl": -1.0, "ap50/owl": -1.0}
    assert chosen_metrics(few, "ap") == {"ap": 0.5, "ap/cat": 0.5, "ap50/cat": 0.6}


def test_an_error_is_one_line_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (UserError("no class \x1b[2J\n\udcff of data"), OSError(28, "No space left", "a\x1b[1m\nb")):
        with pytest.raises(SystemExit) as end, one_line_errors():
            raise error
        assert end.value.code == 2
        printed = capsys.readouterr().err
        assert printed.startswith("error: ")
        assert printed.count("\n") == 1
        assert not set(printed) & {"\x1b", "\udcff"}
