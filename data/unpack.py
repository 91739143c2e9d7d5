"""Unpacks archives, so that nothing is written outside of the target folder."""

import secrets
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from backbones.errors import UserError
from data.tar import DAMAGE, ShortHeaders, reason


class Entry(NamedTuple):
    """A file or folder of an archive."""

    name: str
    folder: bool
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, root: Path, strip: int = 0, nested: bool = False) -> int:
    """Writes an archive's files below root, without the first `strip` folders of their names; returns how many it has.
    `nested` unpacks archives in the archive, each into a folder of its name.

    Raises:
        UserError: it is damaged, cannot be written, or names a path outside of root, in which case nothing is written.
    """
    with _entries(archive) as entries:
        targets = [(_target(archive, root, entry, strip, nested), entry) for entry in entries]
        for target, entry in targets:
            if target is None or entry.folder:
                continue
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                partial = target.with_name(f".{secrets.token_hex(8)}.part")  # its own name may have maximal length
                try:
                    with entry.open() as source, partial.open("wb") as file:
                        shutil.copyfileobj(source, file, 1 << 20)
                    partial.replace(target)
                finally:
                    partial.unlink(missing_ok=True)
            except OSError as error:
                raise UserError(f"{archive} cannot be unpacked: {target}: {error.strerror or error}") from error
            if nested and tarfile.is_tarfile(target):
                unpack(target, target.with_suffix(""))
                target.unlink()
    return sum(not entry.folder for _, entry in targets)


def _target(archive: Path, root: Path, entry: Entry, strip: int, nested: bool) -> Path | None:
    parts = [part for part in PurePosixPath(entry.name.replace("\\", "/")).parts if part != "."]
    dots = nested and parts and not PurePosixPath(parts[-1]).stem.strip(".")  # ...tar would be unpacked into ..
    if ".." in parts or dots or (parts and (parts[0] == "/" or ":" in parts[0])):
        raise UserError(f"{archive} holds {entry.name!r}, which would be written outside of {root}; it is refused")
    return root.joinpath(*parts[strip:]) if parts[strip:] else None


@contextmanager
def _entries(archive: Path) -> Iterator[list[Entry]]:
    """The entries of a zip or tar archive."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                yield [_zipped(archive, zipped, info) for info in zipped.infolist()]
        else:
            with tarfile.open(archive, tarinfo=ShortHeaders) as tar:
                yield [_tarred(archive, tar, member) for member in tar]
    # RuntimeError: an entry that is encrypted or compressed in a way that zipfile does not know
    except (*DAMAGE, zipfile.BadZipFile, RuntimeError) as error:
        raise UserError(f"{archive} is damaged: {reason(error)}; delete it and prepare again") from error


def _zipped(archive: Path, zipped: zipfile.ZipFile, info: zipfile.ZipInfo) -> Entry:
    if stat.S_ISLNK(info.external_attr >> 16):
        raise UserError(f"{archive} holds the link {info.filename!r}; it is refused")
    return Entry(info.filename, info.is_dir(), lambda: zipped.open(info))


def _tarred(archive: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    if not (member.isfile() or member.isdir()):
        raise UserError(f"{archive} holds {member.name!r}, which is neither a file nor a folder; it is refused")
    return Entry(member.name, member.isdir(), lambda: tar.extractfile(member))  # type: ignore[arg-type,return-value]  # a file's is not None
