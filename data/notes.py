"""Annotations that readers leave out, collected on request. Nothing here needs torch."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

MOST = 10_000  # boxes that are kept individually


class Unusable(NamedTuple):
    """A box (left, top, right, bottom) in pixels that is not used, and the reason."""

    path: Path
    reason: str
    box: tuple[float, ...]


@dataclass
class Notes:
    """What readers found besides the records that they return."""

    boxes: list[Unusable] = field(default_factory=list)  # the first MOST
    dropped: Counter[str] = field(default_factory=Counter)  # the number of all dropped boxes, by reason
    sizes: dict[Path, tuple[float, float]] = field(default_factory=dict)  # annotated width and height


_notes: ContextVar[Notes | None] = ContextVar("notes", default=None)


@contextmanager
def noted() -> Iterator[Notes]:
    """Collects skipped annotations within the block."""
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
    """Notes an image's annotated size, and those of its boxes (N, 4) that have `faults`, flags (N,) by reason."""
    notes = _notes.get()
    if notes is None:
        return
    notes.sizes[path] = size
    for reason, rows in faults.items():
        left = MOST - len(notes.boxes)
        notes.boxes += [Unusable(path, reason, tuple(box)) for box in boxes[rows][:left].tolist()]


def note_dropped(dropped: Counter[str]) -> None:
    """Notes how many boxes of a file are left out, by reason."""
    if notes := _notes.get():
        notes.dropped.update(dropped)
