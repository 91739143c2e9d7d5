"""Files that appear under their name only when they are complete, even if the machine stops."""

import errno
import fcntl
import os
import secrets
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any
from zipfile import BadZipFile, ZipFile, ZipInfo

# what NumPy raises besides OSError and ValueError for a damaged .npy or .npz file
BAD_ARRAY = (TokenError, SyntaxError, EOFError, OverflowError, MemoryError, NotImplementedError, BadZipFile, zlib.error)


@contextmanager
def atomic_write(path: Path, mode: str = "wb", encoding: str | None = None) -> Iterator[IO[Any]]:
    """A file that appears as `path` only once it is complete and has reached the disk.

    A process that is killed leaves `path` as it was; several may write the same path at once. A symbolic link at
    `path` is replaced, not followed; one at the unfinished file's name is not followed either.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    file = partial.open(mode.replace("w", "x"), encoding=encoding)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def check_regular(path: Path, most: int | None = 1 << 30) -> None:
    """Raises OSError if a file is absent, larger than `most` bytes, or not a regular file: reading a device may never
    end, reading a pipe never begin.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    if most is not None and status.st_size > most:
        raise OSError(errno.EFBIG, f"it has more than {most >> 20} MiB", str(path))


def zip_entries(path: Path) -> list[ZipInfo]:
    """The entries of a zip archive, the same for all readers: these differ in where they look for the directory, which
    must be where all do, at the very end.

    Raises:
        BadZipFile: it is not there, or damaged.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 98))  # the longest possible end: 56 + 20 bytes of zip64, and 22
        tail = file.read(98).rjust(98, b"\0")
    large, locator, end = tail[:56], tail[56:76], tail[76:]
    length, start = struct.unpack("<2L", end[12:20])
    after, known = size - 22, end[:4] == b"PK\5\6" and end[20:] == b"\0\0"
    if locator[:4] == b"PK\6\7":
        length, start = struct.unpack("<2Q", large[40:])
        after = size - 98
        known &= large[:4] == b"PK\6\6" and struct.unpack("<Q", locator[8:16])[0] == after
    if not known or start + length != after:
        raise BadZipFile(f"{path} does not end with its directory")
    with ZipFile(path) as archive:
        return archive.infolist()


def is_within(path: Path, folder: Path) -> bool:
    """Whether a path is inside a folder after all symbolic links are resolved."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def publish(partial: Path, path: Path) -> None:
    """Renames a finished file, or a folder of files, once all of it has reached the disk."""
    sync_all(partial)
    partial.replace(path)
    sync(path.parent)


def sync_all(path: Path) -> None:
    """Waits until a file, or a folder with all that is in it, has reached the disk."""
    if path.is_dir():
        for place, _, names in os.walk(path):
            for name in names:
                sync(Path(place, name))
            sync(Path(place))
    else:
        sync(path)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, have reached the disk.

    Raises:
        OSError: a file cannot be written. For a folder, which not every file system can sync, nothing is raised.
    """
    if not path.is_dir():
        _sync(path)
        return
    with suppress(OSError):
        _sync(path)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Within it, no other process holds the folder's lock; no effect on file systems without locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
