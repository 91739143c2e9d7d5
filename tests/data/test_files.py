"""Folders that are written completely or not at all."""

import os
from pathlib import Path

import pytest

from data.files import atomic_folder


def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path: Path) -> None:
    """In a container, each process has the same number."""
    for end in ("part", "old"):
        (tmp_path / f".made.{os.getpid()}.{end}").mkdir()
        (tmp_path / f".made.{os.getpid()}.{end}" / "b").touch()
    for text in ("first", "second"):
        with atomic_folder(tmp_path / "made", overwrite=True) as folder:
            (folder / "a").write_text(text)
        assert (tmp_path / "made" / "a").read_text() == text
    assert len(list(tmp_path.iterdir())) == 3


def test_the_old_folder_is_in_place_while_the_new_one_reaches_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, flush = tmp_path / "made", os.fsync
    seen: list[str | None] = []

    def fsync(descriptor: int) -> None:
        seen.append((target / "a").read_text() if target.exists() else None)
        flush(descriptor)

    target.mkdir()
    (target / "a").write_text("old")
    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_folder(target, overwrite=True) as folder:
        (folder / "a").write_text("new")
    assert seen == ["old", "old", "new"]  # the file, the folder, and the folder that holds it
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
