"""Text files: lists, JSON, YAML."""

import codecs
import json
import os
from pathlib import Path
from typing import Any

import yaml

from backbones.errors import UserError, first_line
from backbones.files import atomic_write, check_regular

YAML_BYTES, YAML_DEPTH = 1 << 20, 50  # limits for a file that is not trusted
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, with or without a byte order mark.

    Raises:
        UserError: it is absent, not a regular file, or not UTF-8.
    """
    try:
        check_regular(path, None)
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read: it is not UTF-8: save it as UTF-8") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path} cannot be read: {reason}") from error


def read_names(path: Path) -> list[str]:
    """The lines of a list of file names, which may contain bytes that are not UTF-8, and line separators such as
    U+2028: only a line feed ends a name.

    Raises:
        UserError: it is absent, or not a regular file.
    """
    try:
        check_regular(path, None)
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    *lines, last = os.fsdecode(content.removeprefix(codecs.BOM_UTF8)).split("\n")
    return [*lines, last] if last else lines


def read_json(path: Path, most: int | None = None) -> Any:
    """The content of a JSON file of at most `most` bytes.

    Raises:
        UserError: it is absent, not a regular file, too large, not JSON, or nested too deeply for Python.
    """
    try:
        check_regular(path, most)
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    except RecursionError as error:
        raise UserError(f"{path} cannot be read as JSON: it is nested too deeply") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file that a run can do without: empty if the file is absent, cannot be read, has more than a
    gigabyte or holds something else.
    """
    try:
        content = read_json(path, 1 << 30)
    except UserError:
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON completely or not at all.

    Raises:
        UserError: it cannot be written.
    """
    try:
        with atomic_write(path, "w") as file:
            json.dump(content, file, indent=2)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def read_plain_yaml(path: Path) -> Any:
    """The content of a YAML file that is not trusted: plain values, without anchors, at most 1 MB.

    Raises:
        UserError: it cannot be read, or is not such a file.
    """
    try:
        check_regular(path, None)
        with path.open("rb") as file:
            data = file.read(YAML_BYTES + 1)
        if len(data) > YAML_BYTES:
            raise UserError(f"{path} is larger than 1 MB, the limit for configurations")
        depth = 0
        for event in yaml.parse(data, Loader=LOADER):  # before building: aliases multiply the size, nesting recurses
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > YAML_DEPTH:
                raise UserError(f"{path} is not plain YAML: it has anchors or is nested too deeply")
        content = yaml.load(data, Loader=LOADER)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{path} is not YAML: {first_line(error)}") from error
    if _huge(content):
        raise UserError(f"{path} is not plain YAML: it has an integer of more than 64 bits")
    return content


def _huge(content: Any) -> bool:
    """Whether there is an integer of more than 64 bits, which Python may refuse to print."""
    if isinstance(content, dict):
        return any(_huge(value) for pair in content.items() for value in pair)
    if isinstance(content, list):
        return any(map(_huge, content))
    return isinstance(content, int) and content.bit_length() > 64
