"""Files at addresses: http(s):// as downloads are read, s3:// and gs:// by fsspec, which takes the cloud's credentials
from where its own tools do. What was read is kept on disk, up to so many bytes in all.

Which addresses there are, the command line alone says. A server is trusted with nothing, its announced size included.
"""

import fcntl
import hashlib
import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from backbones.download import cache_folder, open_address
from backbones.errors import UserError, first_line
from backbones.files import publish

TIMEOUT = 30  # seconds that an address may be silent
BLOCK = 1 << 20
LEFT = 3600  # seconds after which what a killed process was writing is removed
CLOUDS = ("s3", "gs")


def is_address(name: str) -> bool:
    return "://" in name


def check_address(address: str) -> None:
    """UserError where an address is of a kind that cannot be read."""
    scheme = urlsplit(address).scheme
    if scheme in CLOUDS:
        _system(address)
    elif scheme not in ("http", "https"):
        raise UserError(f"{address}: addresses begin with http://, https://, {', '.join(f'{c}://' for c in CLOUDS)}")


class _Stream(io.RawIOBase):
    """What fsspec reads, with all that its libraries raise as an OSError."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            content = self.file.read(len(buffer))
        except Exception as error:
            raise OSError(first_line(error)) from error
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        with suppress(Exception):
            self.file.close()
        super().close()


def open_stream(address: str) -> IO[bytes]:
    """What is at an address, to be read from its beginning to its end.

    Raises:
        OSError: it cannot be had.
    """
    if urlsplit(address).scheme not in CLOUDS:
        stream: IO[bytes] = open_address(address, timeout=TIMEOUT)
        return stream
    try:
        return io.BufferedReader(_Stream(_system(address).open(address, "rb", block_size=8 * BLOCK)), BLOCK)
    except Exception as error:
        raise OSError(first_line(error)) from error


def open_kept(address: str, most: int) -> IO[bytes]:
    """As `open_stream`, from a copy on disk, which is made where there is none. All copies take `most` bytes; those
    that were read longest ago make room. A file for which there is no room is read as a stream.

    Raises:
        OSError: it cannot be had, or has another length than was announced.
    """
    source, size, version = _announced(address)
    if size is None or not 0 <= size <= most:
        return source or open_stream(address)
    folder = cache_folder() / "files"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.sha256(f"{address} {size} {version}".encode()).hexdigest()
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    with _held(folder):
        with suppress(FileNotFoundError):
            file = path.open("rb")
            os.utime(path)
            if source:
                source.close()
            return file
        if not _make_room(folder, most - size):
            return source or open_stream(address)
        with partial.open("wb") as empty:
            empty.truncate(size)  # which others count
    try:
        with source or open_stream(address) as stream, partial.open("r+b") as target:
            _copy(stream, target, size)
        file = partial.open("rb")
        publish(partial, path)
        return file
    finally:
        partial.unlink(missing_ok=True)


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    left = size
    while block := source.read(min(BLOCK, left + 1)):
        left -= len(block)
        if left < 0:
            break
        target.write(block)
    if left:
        raise OSError(f"it has other than the {size} bytes that were announced")


def _announced(address: str) -> tuple[IO[bytes] | None, int | None, str]:
    """A stream of a file if asking has opened one, how long it is said to be, and what tells its content from another;
    None where that is not said.
    """
    if urlsplit(address).scheme in CLOUDS:
        try:
            facts = _system(address).info(address)
            return None, facts["size"], str(sorted(facts.items(), key=str))
        except Exception as error:
            raise OSError(first_line(error)) from error
    answer: Any = open_stream(address)
    length = answer.headers.get("Content-Length") or ""
    known = length.isascii() and length.isdigit() and len(length) < 20
    return answer, int(length) if known else None, f"{answer.headers.get('ETag')} {answer.headers.get('Last-Modified')}"


def _system(address: str) -> Any:
    """fsspec's reader of a cloud; UserError where its package is not installed."""
    import fsspec

    try:
        return fsspec.filesystem(urlsplit(address).scheme)
    except ImportError as error:
        raise UserError(f"{address} needs a package that is not installed: pip install '.[cloud]'") from error


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """One process at a time looks at what is kept."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make_room(folder: Path, most: int) -> bool:
    """Removes what was read longest ago, until the rest has `most` bytes at the most; whether that can be."""
    found = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # renamed meanwhile
            facts = path.stat()
            found.append((facts.st_mtime, facts.st_size, path))
    total = sum(size for _, size, _ in found)
    for used, size, path in sorted(found):
        if total <= most:
            break
        if path.suffix != ".part" or time.time() - used > LEFT:
            path.unlink(missing_ok=True)
            total -= size
    return total <= most
