"""WebDataset tar shards: the files of a sample follow each other and have the same name up to its first dot.

They are read as streams, from the disk or from an address; single files in those on disk are read by their path.
"""

import errno
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from glob import escape, glob
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from backbones.errors import UserError, first_line
from backbones.files import check_regular
from data.remote import check_address, is_address, open_kept, open_stream

IMAGE_KINDS = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff")
RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")
MOST_BRACES, MOST_NAMES = 20, 1 << 25  # braces in a name, and bytes of memory for all names of a pattern
MAX_FILE = 1 << 30  # bytes of a file in a shard, and of all files of a sample, which are read at once
MAX_HEADER = 1 << 20
BUFFER = 1 << 18  # bytes that are read from a stream at a time
HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
# What reading a damaged archive can raise; zlib.error and LZMAError come from compressed ones.
DAMAGE = (OSError, EOFError, HTTPException, tarfile.TarError, zlib.error, lzma.LZMAError, ValueError, OverflowError)


class ShardSample(NamedTuple):
    """A sample: shard and key as `name`, and contents of its files by the part of their names after the first dot."""

    name: str
    files: dict[str, bytes]

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(map(len, self.files.values()))

    @property
    def kind(self) -> str | None:
        """The key of the image in `files`, if there is one."""
        return next((kind for kind in IMAGE_KINDS if kind in self.files), None)


class SampleSource(NamedTuple):
    """An image file that becomes a sample of a shard, and the annotations for the sample's JSON file."""

    path: Path
    annotations: dict[str, Any]


class BadShard(Exception):
    """A shard that ends early or cannot be opened. Its arguments are the shard and the reason."""


def expand(pattern: str) -> list[str]:
    """The names that a pattern with {000..123} and {a,b} stands for, in order; white space separates patterns.

    Raises:
        UserError: it stands for more than about a quarter of a million names.
    """
    too_many = UserError(f"{pattern:.100} stands for more files than can be read")
    if any(part.count("{") > MOST_BRACES for part in pattern.split()):
        raise too_many
    found, size = [], 0
    for name in _names(pattern):
        found.append(name)
        size += 64 + len(name)
        if size > MOST_NAMES:
            raise too_many
    return found


def _names(pattern: str) -> Iterator[str]:
    for part in pattern.split():
        brace = re.search(r"\{([^{}]*)\}", part)
        if not brace:
            yield part
            continue
        inner: Iterable[str] = brace[1].split(",")
        if bounds := RANGE.fullmatch(brace[1]):
            first, last, width = int(bounds[1]), int(bounds[2]), len(bounds[1])
            numbers = range(first, last + 1) if first <= last else range(first, last - 1, -1)
            inner = (f"{i:0{width}d}" for i in numbers)
        for word in inner:
            yield from _names(part[: brace.start()] + word + part[brace.end() :])


def find_shards(root: Path, pattern: str) -> list[str]:
    """The shards that a pattern names: addresses as they are, files below root, where * and ? stand for anything.

    Raises:
        UserError: there is no such file, or an address is of a kind that cannot be read.
    """
    shards = []
    for name in expand(pattern):
        if is_address(name):
            check_address(name)
        # a file of exactly that name takes precedence over the pattern
        here = [name] if is_address(name) else [str(root / name)] if (root / name).is_file() else []
        found = here or sorted(glob(str(Path(escape(str(root))) / name)))
        if not found:
            raise UserError(f"there is no shard {root / name}")
        shards += found
    return shards


def split_name(name: str) -> tuple[str, str]:
    """A file's key, and its kind in lower case."""
    path = PurePosixPath(name)
    stem, _, kind = path.name.partition(".")
    return str(path.parent / stem), kind.lower()


class ShortHeaders(tarfile.TarInfo):
    """Rejects headers (long names, extended attributes) over MAX_HEADER bytes, which tarfile would read into memory
    whole, and members of a negative size.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "ShortHeaders":
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0 or (info.type in HEADERS and info.size > MAX_HEADER):
            raise tarfile.ReadError(f"a header of {info.size} bytes")
        return info

    def _apply_pax_info(self, *arguments: Any) -> None:
        super()._apply_pax_info(*arguments)  # type: ignore[misc]  # tarfile's own
        if self.size < 0:  # reading would go back, in an endless loop
            raise tarfile.ReadError(f"a member of {self.size} bytes")


def read_samples(
    shard: str, wanted: Callable[[str], bool] = lambda kind: True, cache_bytes: int = 0
) -> Iterator[ShardSample]:
    """The samples of a shard, with the content of those of their files whose kind is `wanted`. At most
    `cache_bytes` of remote shards are kept on disk.

    Raises:
        BadShard: it cannot be opened, ends in the middle, or has a sample of more than MAX_FILE bytes; the complete
            samples before that were yielded.
    """
    key: str | None = None
    files: dict[str, bytes] = {}
    taken = 0  # bytes of the sample
    try:
        with _open(shard, cache_bytes) as tar:
            for member in tar:
                if not member.isfile():
                    continue
                new, kind = split_name(member.name)
                if new != key:
                    if files:
                        yield ShardSample(f"{shard}/{key}", files)
                    key, files, taken = new, {}, 0
                content = b""
                if member.size > MAX_FILE:  # a sparse file can have such a size and take no space in the shard
                    raise tarfile.ReadError(f"{member.name} has {member.size} bytes, more than {MAX_FILE}")
                taken += tarfile.BLOCKSIZE + (member.size if wanted(kind) else 0)
                if taken > MAX_FILE:
                    raise tarfile.ReadError(f"the files of {key} have more than {MAX_FILE} bytes")
                if wanted(kind):
                    content = tar.extractfile(member).read()  # type: ignore[union-attr]  # a file's is not None
                    if len(content) < member.size:
                        raise tarfile.ReadError("unexpected end of data")
                files[kind] = content
    except DAMAGE as error:
        raise BadShard(shard, f"the shard cannot be read to its end: {reason(error)}") from error
    if files:
        yield ShardSample(f"{shard}/{key}", files)


def reason(error: Exception) -> str:
    """The cause of an archive's error, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error).rstrip(":")


@contextmanager
def _open(shard: str, cache_bytes: int) -> Iterator[tarfile.TarFile]:
    if not is_address(shard):
        check_regular(Path(shard), None)
        with tarfile.open(shard, "r:*", tarinfo=ShortHeaders) as tar:
            yield tar
        return
    with (
        open_kept(shard, cache_bytes) if cache_bytes else open_stream(shard) as file,
        tarfile.open(fileobj=file, mode="r|*", bufsize=BUFFER, tarinfo=ShortHeaders) as tar,
    ):
        yield tar


def compressed(shard: Path) -> bool:
    """Whether a shard on disk is compressed (gzip, bzip2, xz), so that `read_member` cannot read it.

    Raises:
        UserError: it cannot be read.
    """
    try:
        check_regular(shard, None)
        with shard.open("rb") as file:
            return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"))
    except OSError as error:
        raise UserError(f"{shard} cannot be read: {error.strerror}") from error


def is_member(path: Path) -> bool:
    """Whether a path leads into a shard, as in shards/000.tar/photo.jpg."""
    return any(part.endswith(".tar") for part in path.parts[:-1])


def read_member(path: Path) -> bytes:
    """A file in a shard on disk.

    Raises:
        OSError: it is not there.
    """
    shard = next(parent for parent in path.parents if parent.suffix == ".tar")
    try:
        offset, size = _members(shard)[str(path.relative_to(shard))]
    except (KeyError, *DAMAGE) as error:
        raise FileNotFoundError(2, "there is no such file in the shard", str(path)) from error
    if size > MAX_FILE:
        raise OSError(errno.EFBIG, f"it has {size} bytes, more than {MAX_FILE}", str(path))
    with shard.open("rb") as file:
        file.seek(offset)
        return file.read(size)


@lru_cache(64)
def _members(shard: Path) -> dict[str, tuple[int, int]]:
    """Offset and size of each file in a shard."""
    found = {}
    check_regular(shard, None)
    with tarfile.open(shard, "r:", tarinfo=ShortHeaders) as tar:
        try:
            for member in tar:
                found[".".join(split_name(member.name))] = (member.offset_data, member.size)
        except DAMAGE:
            pass  # truncated: the files before that are readable
    return found
