"""What readers of annotations leave out, kept where someone asks for it. Nothing here needs torch."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

MOST = 10_000  # boxes that are kept one by one


class Unusable(NamedTuple):
    """A box (left, top, right, bottom) in pixels that is not used, and what is wrong with it."""

    path: Path
    reason: str
    box: tuple[float, ...]


@dataclass
class Notes:
    """What readers saw beside the records that they return."""

    boxes: list[Unusable] = field(default_factory=list)  # the first MOST
    dropped: Counter[str] = field(default_factory=Counter)  # all, by what is wrong with them
    sizes: dict[Path, tuple[float, float]] = field(default_factory=dict)  # annotated width and height


_notes: ContextVar[Notes | None] = ContextVar("notes", default=None)


@contextmanager
def noted() -> Iterator[Notes]:
    """Within it, what any reader of annotations leaves out is kept."""
    notes = Notes()
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def note_boxes(
    path: Path,
    size: tuple[float, float],
    boxes: npt.NDArray[np.floating],
    faults: Mapping[str, npt.NDArray[np.bool_]],
) -> None:
    """Keeps an image's annotated size, and of its boxes (N, 4) those with `faults` (N,), by what is wrong with them."""
    notes = _notes.get()
    if notes is None:
        return
    notes.sizes[path] = size
    for reason, rows in faults.items():
        left = MOST - len(notes.boxes)
        notes.boxes += [Unusable(path, reason, tuple(box)) for box in boxes[rows][:left].tolist()]


def note_dropped(dropped: Counter[str]) -> None:
    """Keeps how many boxes of a file are left out, by what is wrong with them."""
    if notes := _notes.get():
        notes.dropped.update(dropped)
