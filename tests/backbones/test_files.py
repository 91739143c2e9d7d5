"""Complete files: in which order they reach the disk."""

import os
import re
import secrets
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from backbones.errors import UserError
from backbones.files import atomic_write, check_regular, is_within, publish
from backbones.weights import read_weights
from tasks.engine.checkpoint import load_checkpoint
from tests.conftest import make_irregular


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Records what is flushed and renamed, in order."""
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
    (_, partial), *others = events
    assert re.fullmatch(r"\.a\.txt\.\w+\.part", partial)
    assert events[0][0] == "flush"
    assert others == [("rename", "a.txt"), ("flush", tmp_path.name)]
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_no_link_is_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a link in place of the file, nor one in place of the temporary file."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "a.txt").symlink_to(victim)
    for number in (os.getpid(), os.getpid() + 1):  # which temporary names contained once
        (tmp_path / f".a.txt.{number}.part").symlink_to(victim)
    with atomic_write(tmp_path / "a.txt", "w") as file:
        file.write("whole")
    assert not (tmp_path / "a.txt").is_symlink()
    monkeypatch.setattr(secrets, "token_hex", lambda count: "0")
    (tmp_path / ".b.txt.0.part").symlink_to(victim)
    with pytest.raises(FileExistsError), atomic_write(tmp_path / "b.txt"):
        pass
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "large", "absent"])
def test_what_cannot_be_read_to_an_end_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    if kind == "large":
        path.write_bytes(bytes(11))
    elif kind != "absent":
        make_irregular(path, kind)
    with pytest.raises(OSError, match=r"not a regular file|more than|No such file"):
        check_regular(path, 10)
    if kind == "large":
        check_regular(path)


def test_what_links_lead_out_of_is_not_within(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name, target in (("in", "a"), ("out", "../a"), ("far", "/etc"), ("self", "self")):
        (tmp_path / "run" / name).symlink_to(target)
    inside = [
        name
        for name in ("a", "in", "out", "far", "far/passwd", "../a")
        if is_within(tmp_path / "run" / name, tmp_path / "run")
    ]
    assert inside == ["a", "in"]
    is_within(tmp_path / "run" / "self", tmp_path)  # must return


def test_a_folder_is_flushed_with_all_that_is_in_it(events: list[tuple[str, str]], tmp_path: Path) -> None:
    (tmp_path / "made" / "inner").mkdir(parents=True)
    (tmp_path / "made" / "inner" / "a.txt").write_text("x")
    publish(tmp_path / "made", tmp_path / "done")
    flushed = [name for kind, name in events if kind == "flush"]
    assert sorted(flushed[:3]) == ["a.txt", "inner", "made"]
    assert flushed[3:-1] == []
    assert flushed[-1] == tmp_path.name
    assert (tmp_path / "done" / "inner" / "a.txt").read_text() == "x"


@pytest.mark.parametrize("trick", ["two directories", "two ends", "one place"])
def test_a_file_that_readers_see_differently_is_not_unpacked(trick: str, tmp_path: Path) -> None:
    """Each is read by torch, and takes more memory than its size. Python's zipfile finds nothing compressed: it looks
    for the directory right before its end, torch where the end says; or it finds no archive.
    """
    path = tmp_path / "crafted.pth"
    torch.save({"conv_stem.weight": torch.zeros(100_000)}, tmp_path / "whole.pth")
    packing = zipfile.ZIP_STORED if trick == "one place" else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, zipfile.ZipFile(path, "w", packing) as small:
        for name in whole.namelist():
            small.writestr(name, whole.read(name))
        if trick == "one place":
            (entry,) = (e for e in small.infolist() if e.filename.endswith("data/0"))
            small.filelist += [entry] * 2
    content = path.read_bytes()
    start = int.from_bytes(content[-6:-2], "little")
    if trick == "two directories":
        stored = bytearray(content[start:-22])
        for place in [i for i in range(len(stored)) if stored.startswith(b"PK\1\2", i)]:
            stored[place + 10 : place + 12] = b"\0\0"  # the method
        content = content[:-22] + bytes(stored) + content[-22:]
    elif trick == "two ends":
        content += b"PK\5\6"
    path.write_bytes(content)
    assert len(torch.load(path, weights_only=True)["conv_stem.weight"]) == 100_000
    for read in (load_checkpoint, read_weights):
        with pytest.raises(UserError, match="it is compressed" if trick == "one place" else "it is damaged"):
            read(path)
