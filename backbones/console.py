"""The terminal. Text from files (names, paths, messages) is printed without interpreting control sequences."""

import re
from collections.abc import Iterable
from typing import Any

from rich import console as rich_console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

# Control characters except tab and newline, characters that change the direction of text, and lone surrogates, which
# stand for bytes of a file name that are not UTF-8 and which no terminal accepts.
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """The text with a replacement character for each character that a terminal would interpret."""
    return UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text)


class Console(rich_console.Console):
    """rich's, but square brackets and colons are not interpreted as markup and emoji, and control characters are
    replaced everywhere: in strings, tables, log messages, titles.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        return super().render_str(plain(text), **settings)  # before its width is measured

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            # control segments are rich's own: they move the cursor of a progress bar
            yield segment if segment.control else Segment(plain(segment.text), segment.style)
