"""Findings about a data set: one for each kind, with examples."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

EXAMPLES = 24  # of a kind that are kept

Box = tuple[float, ...]  # left, top, right, bottom in pixels of the upright image


@dataclass(frozen=True)
class Example:
    """An image with a description of the finding; `boxes` are marked, `other` is shown beside it."""

    path: Path | None  # None if it is not about a single image
    words: str = ""
    boxes: tuple[Box, ...] = ()
    other: Path | None = None


@dataclass(frozen=True)
class Finding:
    """`kind` is the finding's name, `title` describes the `count` cases, `hint` says what to do about them. A fault
    reduces accuracy or misleads; `fault=False` is information only.
    """

    kind: str
    title: str
    count: int
    hint: str
    examples: Sequence[Example]
    fault: bool = True


def finding(
    kind: str, title: str, examples: Sequence[Example], hint: str, fault: bool = True, count: int | None = None
) -> Iterator[Finding]:
    """The finding, if there are any examples or `count` says so."""
    if examples or count:
        yield Finding(kind, title, len(examples) if count is None else count, hint, examples[:EXAMPLES], fault)
