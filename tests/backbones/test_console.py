"""Text that comes from files is printed as plain text."""

import io
import logging

import pytest
from rich.logging import RichHandler
from rich.progress import track
from rich.table import Table

from backbones.console import Console, plain
from tests.conftest import ROOT

HOSTILE = "[/nope] [red]cat[/] :dog: \x1b[2J\x1b]0;title\x07\r\b\x9b31m \u202egpj.exe \udcff"
SHOWN = "[/nope] [red]cat[/] :dog: �[2J�]0;title���\N{REPLACEMENT CHARACTER}31m �gpj.exe �"


def printed(*things: object, terminal: bool = False) -> str:
    buffer = io.StringIO()
    console = Console(file=buffer, width=200, force_terminal=terminal, color_system=None)
    for thing in things:
        console.print(thing)
    return buffer.getvalue()


def test_names_reach_the_terminal_as_text() -> None:
    table = Table("metric", HOSTILE, title=HOSTILE, caption=HOSTILE)
    table.add_row(HOSTILE, "1.0")
    for text in (printed(HOSTILE), printed(table)):
        assert SHOWN in text
        assert not set(text) & {"\x1b", "\x07", "\r", "\b", "\x9b", "\u202e", "\udcff"}
    assert printed(table).count(SHOWN) == 4
    rows = [line for line in printed(table).splitlines() if line[:1] in "┃│"]
    assert len({len(line) for line in rows}) == 1  # replaced characters still have a width


def test_rules_and_log_messages_too() -> None:
    buffer = io.StringIO()
    console = Console(file=buffer, width=200)
    console.rule(HOSTILE)
    log = logging.Logger("test")
    log.addHandler(RichHandler(console=console, show_path=False, show_time=False))
    log.warning("skipped %s", HOSTILE)
    assert buffer.getvalue().count("[/nope] [red]cat[/] :dog: �[2J") == 2
    assert "\x1b" not in buffer.getvalue()


def test_what_moves_the_cursor_of_a_progress_bar_is_kept() -> None:
    buffer = io.StringIO()
    console = Console(file=buffer, width=80, force_terminal=True)
    for _ in track(range(3), "predicting", console=console):
        pass
    assert "\x1b[2K" in buffer.getvalue()
    assert "�" not in buffer.getvalue()


@pytest.mark.parametrize("text", ["été 猫 ★ [x] a\tb\nc", ""])
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert plain(text) == text


def test_no_other_console_is_used() -> None:
    for folder in ("backbones", "data", "tasks"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "console.py":
                assert "rich.console import Console" not in path.read_text(), path
