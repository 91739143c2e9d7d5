"""Folders for the recognition of layouts, large ones by a sample of their entries. Nothing here needs torch."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from data.files import IMAGE_SUFFIXES, is_hidden
from data.splits import SPLIT_NAMES

SAMPLE = 1000  # most entries of a folder that are kept per suffix


@dataclass(frozen=True)
class Layout:
    """An option of conf/data, its settings for the folder, and its description for the user."""

    option: str
    description: str
    settings: dict[str, Any] = field(default_factory=dict)


class Folder:
    """A folder's entries, or a sample of them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def entries(self) -> list[os.DirEntry[str]]:
        return self._scan(SAMPLE)

    def _scan(self, most: int | None) -> list[os.DirEntry[str]]:
        """At most `most` entries per suffix, in the order of the folder."""
        found: dict[str, list[os.DirEntry[str]]] = {}  # by suffix, so that a table beside a million images is found
        try:
            with os.scandir(self.path) as entries:
                for entry in entries:
                    suffix = os.path.splitext(entry.name)[1].lower()
                    kind = found.setdefault(suffix if suffix in found or len(found) < 100 else "", [])
                    if (most is None or len(kind) < most) and not is_hidden(entry.name):
                        kind.append(entry)
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error.strerror}") from error
        return [entry for kind in found.values() for entry in kind]

    @cached_property
    def folders(self) -> dict[str, "Folder"]:
        return {e.name: Folder(Path(e.path)) for e in sorted(self.entries, key=lambda e: e.name) if _is_dir(e)}

    def files(self, *suffixes: str, complete: bool = False) -> list[str]:
        """Names of the files with these suffixes, in any case; of a large folder those in the sample, or all."""
        entries = self._scan(None) if complete else self.entries
        return sorted(e.name for e in entries if e.name.lower().endswith(suffixes) and _is_file(e))

    @property
    def images(self) -> list[str]:
        return self.files(*IMAGE_SUFFIXES)

    def named(self, *names: str) -> list["Folder"]:
        """The sub-folders of these names, in any case, in the order of the names."""
        return [folder for name in names for found, folder in self.folders.items() if found.lower() == name]

    def split_folders(self) -> dict[str, str]:
        """The splits that have a sub-folder, with its name."""
        names = {name.lower(): name for name in self.folders}
        found = {split: [names[n] for n in known if n in names] for split, known in SPLIT_NAMES.items()}
        return {split: names[0] for split, names in found.items() if names}


def _is_dir(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one; False for a link that leads to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file or a broken link, but not a device, or a pipe, on which reading would block."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:
        return True


def split_lists(names: Iterable[str]) -> dict[str, str]:
    """The list of each split, by name in any case. trainval is train if there is test but no val; a single list is
    train if it has one of the names that tools give it.
    """
    known = {name.lower(): name for name in names}
    if len(known) == 1 and known.keys() <= {"default", "trainval", *SPLIT_NAMES["train"]}:
        return {"train": known.popitem()[1]}
    if {"trainval", "test"} <= known.keys() and "val" not in known:
        return {"train": known["trainval"], "val": known["test"]}
    return {split: known[name] for split, options in SPLIT_NAMES.items() for name in options if name in known}
