"""Remote files: http(s):// is read like downloads, s3:// and gs:// by fsspec, which finds the cloud's credentials
where the cloud's own tools do. Files that were read can be kept on disk, up to a total size.

Addresses come only from the command line. Nothing that a server sends is trusted, its announced size included.
"""

import hashlib
import io
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from backbones.download import cache_folder, open_address
from backbones.errors import UserError, first_line
from backbones.files import folder_lock, publish

TIMEOUT = 30  # read timeout, seconds
BLOCK = 1 << 20
ABANDONED = 3600  # age in seconds after which an abandoned .part file is deleted
CLOUDS = ("s3", "gs")


def is_address(name: str) -> bool:
    return "://" in name


def check_address(address: str) -> None:
    """Raises UserError if an address has a scheme that cannot be read."""
    scheme = urlsplit(address).scheme
    if scheme in CLOUDS:
        _system(address)
    elif scheme not in ("http", "https"):
        raise UserError(f"{address}: addresses begin with http://, https://, {', '.join(f'{c}://' for c in CLOUDS)}")


class _Stream(io.RawIOBase):
    """A file of fsspec's; all errors of its libraries become OSError."""

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
    """The file at an address, to be read from beginning to end.

    Raises:
        OSError: it cannot be obtained.
    """
    if urlsplit(address).scheme not in CLOUDS:
        stream: IO[bytes] = open_address(address, timeout=TIMEOUT)
        return stream
    try:
        return io.BufferedReader(_Stream(_system(address).open(address, "rb", block_size=8 * BLOCK)), BLOCK)
    except Exception as error:
        raise OSError(first_line(error)) from error


def open_kept(address: str, cache_bytes: int) -> IO[bytes]:
    """As `open_stream`, from a copy on disk, which is made if there is none. All copies together have at most
    `cache_bytes`; the least recently read are deleted for new ones. A file that does not fit is read as a stream.

    Raises:
        OSError: it cannot be obtained, or has another length than was announced.
    """
    source, size, version = _announced(address)
    if size is None or not 0 <= size <= cache_bytes:
        return source or open_stream(address)
    folder = cache_folder() / "files"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.sha256(f"{address} {size} {version}".encode()).hexdigest()
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    with folder_lock(folder):
        with suppress(FileNotFoundError):
            file = path.open("rb")
            os.utime(path)
            if source:
                source.close()
            return file
        if not _make_room(folder, cache_bytes - size):
            return source or open_stream(address)
        with partial.open("wb") as empty:
            empty.truncate(size)  # reserves the space: other processes count it
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
        raise OSError(f"it does not have the {size} bytes that were announced")


def _announced(address: str) -> tuple[IO[bytes] | None, int | None, str]:
    """A stream of a file, if the request opened one, its announced length (or None), and its version."""
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
    """fsspec's file system of a cloud; UserError if its package is not installed."""
    import fsspec

    try:
        return fsspec.filesystem(urlsplit(address).scheme)
    except ImportError as error:
        raise UserError(f"{address} needs a package that is not installed: pip install '.[cloud]'") from error


def _make_room(folder: Path, most: int) -> bool:
    """Deletes the least recently read files until the rest has at most `most` bytes; returns whether it has."""
    found = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # renamed meanwhile
            facts = path.stat()
            found.append((facts.st_mtime, facts.st_size, path))
    total = sum(size for _, size, _ in found)
    for used, size, path in sorted(found):
        if total <= most:
            break
        if path.suffix != ".part" or time.time() - used > ABANDONED:
            path.unlink(missing_ok=True)
            total -= size
    return total <= most
