"""Text files of data sets: lists, tables, JSON."""

import json
from pathlib import Path
from typing import Any

from backbones.errors import UserError


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, with or without a byte order mark.

    Raises:
        UserError: it is absent or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path} cannot be read: {reason}") from error


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        UserError: it is absent, not JSON, or nested deeper than Python can follow.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not json: {error}") from error
    except RecursionError as error:
        raise UserError(f"{path} is not json that can be read: it is nested too deeply") from error
