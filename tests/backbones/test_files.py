"""Files that are whole: in which order they reach the disk."""

import os
from pathlib import Path
from typing import Any

import pytest

from backbones.files import atomic_write, publish


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is flushed and renamed, in order, while it is done."""
    found: list[tuple[str, str]] = []
    flush, rename = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        found.append(("flush", Path(f"/proc/self/fd/{descriptor}").resolve().name))
        flush(descriptor)

    def replace(self: Path, target: Any) -> Any:
        found.append(("rename", Path(target).name))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    return found


def test_a_file_is_flushed_before_its_name_and_its_name_after(events: list[tuple[str, str]], tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.txt", "w") as file:
        file.write("whole")
        assert not (tmp_path / "a.txt").exists()
    partial = f".a.txt.{os.getpid()}.part"
    assert events == [("flush", partial), ("rename", "a.txt"), ("flush", tmp_path.name)]
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_is_flushed_with_all_that_is_in_it(events: list[tuple[str, str]], tmp_path: Path) -> None:
    (tmp_path / "made" / "inner").mkdir(parents=True)
    (tmp_path / "made" / "inner" / "a.txt").write_text("x")
    publish(tmp_path / "made", tmp_path / "done")
    flushed = [name for kind, name in events if kind == "flush"]
    assert sorted(flushed[:3]) == ["a.txt", "inner", "made"]
    assert flushed[3:-1] == []
    assert flushed[-1] == tmp_path.name
    assert (tmp_path / "done" / "inner" / "a.txt").read_text() == "x"
