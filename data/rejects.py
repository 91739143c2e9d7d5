"""Reports what is left out of a data set."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backbones.errors import UserError

log = logging.getLogger(__name__)


def left_out(source: Path, kind: str, names: Sequence[str], total: int) -> None:
    """Logs one line on the part of a source that is not used, if any."""
    if names:
        log.warning("%s: left out %d of %d %s; the first is %s", source, len(names), total, kind, names[0])


class Rejects:
    """Rows (or other `things`) that are left out, counted by reason; the first of each is kept."""

    def __init__(self, source: Path, things: str = "rows") -> None:
        self.source = source
        self.things = things
        self.count = 0
        self.kinds: dict[str, list[Any]] = {}

    def add(self, kind: str, row: str) -> None:
        self.count += 1
        self.kinds.setdefault(kind, [0, " ".join(row.split())])[0] += 1

    def report(self, total: int, max_bad: float) -> None:
        """Logs a summary, if there is any.

        Raises:
            UserError: all of the `total` rows are left out, or more than the fraction `max_bad`.
        """
        if not total:
            raise UserError(f"{self.source} has no photos")
        kinds = ", ".join(f"{count} {kind} (first: {row})" for kind, (count, row) in self.kinds.items())
        message = f"{self.source}: {self.count} of {total} {self.things} cannot be used: {kinds}"
        if self.count == total:
            raise UserError(message)
        if self.count > max_bad * total:
            raise UserError(f"{message}; at most the fraction data.max_bad={max_bad:g} may be unusable")
        if self.count:
            log.warning("%s", message)
