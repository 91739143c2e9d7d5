"""Generates demo sets once, completely or not at all."""

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from backbones.errors import UserError
from backbones.files import folder_lock
from backbones.processors import usable_cores

INFO = "demo.json"
Job = TypeVar("Job")
Drawn = TypeVar("Drawn")


def make_once(root: Path, settings: Mapping[str, Any], make: Callable[[Path], None]) -> None:
    """Calls `make` to fill `root`, unless `root` holds the set of these settings already.

    The set is made in a hidden sibling folder that is renamed at the end, so a killed run never leaves half a set. Of
    several processes one makes it, and the others wait.

    Raises:
        UserError: `root` holds something else, or an incomplete set.
    """
    if is_complete(root, settings):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with folder_lock(root.parent):
        _make(root, settings, make)


def _make(root: Path, settings: Mapping[str, Any], make: Callable[[Path], None]) -> None:
    if is_complete(root, settings):  # another process made it meanwhile
        return
    if root.exists():
        raise UserError(f"{root} is not the demo set for {dict(settings)}: delete it or name another folder")
    unfinished = root.with_name(f".{root.name}.{secrets.token_hex(4)}.part")
    try:
        unfinished.mkdir(parents=True)
        make(unfinished)
        (unfinished / INFO).write_text(json.dumps({**settings, "bytes": size_of(unfinished)}))
        os.replace(unfinished, root)
    except OSError:
        if not is_complete(root, settings):  # otherwise another machine was faster, with the same images
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def is_complete(root: Path, settings: Mapping[str, Any]) -> bool:
    """Whether `root` holds the complete set of these settings."""
    try:
        found = json.loads((root / INFO).read_text())
    except (OSError, ValueError):
        return False
    return bool(found == {**settings, "bytes": size_of(root)})


def size_of(root: Path) -> int:
    """Bytes of all files but INFO."""
    files = (Path(folder, name) for folder, _, names in os.walk(root) for name in names)
    return sum(file.stat().st_size for file in files if file.name != INFO)


def draw_all(draw: Callable[[Job], Drawn], jobs: Iterable[Job], chunk: int = 8) -> list[Drawn]:
    """What `draw` returns for each job, on all cores."""
    with ProcessPoolExecutor(min(usable_cores(), 8)) as pool:
        return list(pool.map(draw, jobs, chunksize=chunk))
