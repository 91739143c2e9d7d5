"""Files and folders: images by name, and folders that are written completely or not at all."""

import glob
import logging
import os
import secrets
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath

from backbones.errors import UserError
from backbones.files import sync, sync_all

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
# Photos of phones and cameras that are not read.
UNREAD_SUFFIXES = (".heic", ".heif", ".avif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2")
IMAGE_FOLDERS = ("jpegimages", "images", "image", "imgs", "img")


def is_hidden(name: str) -> bool:
    """Whether a file or folder is not part of the data: hidden ones, such as .DS_Store and ._1.jpg, what macOS adds to
    archives, and Synology's thumbnails.
    """
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


def escapes(name: str) -> bool:
    """Whether a relative name may lead out of its folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts


@contextmanager
def atomic_folder(target: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to write into, which becomes `target` at the end, and is removed if anything fails.

    Raises:
        UserError: `target` exists and may not be replaced, or cannot be written.
    """
    if target.exists() and not overwrite:
        raise UserError(f"{target} exists; give overwrite=true to replace it, or another output=")
    mark = secrets.token_hex(4)  # a process number is the same each time in a container
    partial, old = (target.with_name(f".{target.name}.{mark}.{end}") for end in ("part", "old"))
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}; choose another with output=") from error
    try:
        yield partial
        sync_all(partial)  # first, so that `target` is absent only between two renames
        if target.exists():
            if not overwrite:
                raise UserError(f"{target} was written meanwhile; give overwrite=true to replace it")
            target.rename(old)
        partial.replace(target)
        sync(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(partial, ignore_errors=True)


def images_in(folder: Path) -> list[Path]:
    """All images in a folder and its sub-folders, by name, without hidden ones; takes seconds for a million. Links to
    folders are not followed, as those of a stranger's archive may lead anywhere, but reported.
    """
    found: list[str] = []
    links: list[str] = []
    for place, names in _walk(folder, links):
        below = os.path.relpath(place, folder)
        start = "" if below == "." else f"{below}{os.sep}"
        found += [f"{start}{name}" for name in names if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
    if links:
        _warn_of_links(folder, len(links), min(links))
    return [folder / name for name in sorted(found, key=lambda name: name.split(os.sep))]


def has_images(folder: Path) -> bool:
    """Whether a folder or one of its sub-folders has images."""
    return any(os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES for _, names in _walk(folder) for name in names)


@cache
def _warn_of_links(folder: Path, count: int, first: str) -> None:
    """Logs once that links are not followed."""
    log.warning("%s: links to folders are not followed: %d, of which the first is %s", folder, count, first)


def _walk(folder: Path, links: list[str] | None = None) -> Iterator[tuple[str, list[str]]]:
    """A folder and its sub-folders, each with the names of its files, without hidden ones; adds `links` to folders."""
    for place, inside, names in os.walk(folder):
        inside[:] = [name for name in inside if not is_hidden(name)]
        if links is not None:
            links += [path for name in inside if os.path.islink(path := os.path.join(place, name))]
        yield place, [name for name in names if not is_hidden(name)]


def unread(folders: Iterable[Path]) -> str:
    """What to do about the photos in folders, without their sub-folders, whose format is not read; empty if there are
    none.
    """
    return _unread(n for folder in folders if folder.is_dir() for n in os.listdir(folder) if not is_hidden(n))


def unread_below(folder: Path) -> str:
    """As `unread`, for a folder and its sub-folders."""
    return _unread(name for _, names in _walk(folder) for name in names)


def _unread(names: Iterable[str]) -> str:
    suffixes = (os.path.splitext(name)[1].lower() for name in names)
    counts = Counter(suffix for suffix in suffixes if suffix in UNREAD_SUFFIXES)
    listed = ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))
    return f"{listed} files are not read: convert them to JPEG" if listed else ""


def find_images(wanted: str | None, setting: str = "input") -> list[Path]:
    """The images that a file name, a folder or a glob names; an existing path is never read as a pattern. Errors name
    the `setting`. Photos in a folder whose format is not read are reported.

    Raises:
        UserError: there are none.
    """
    if not wanted:
        raise UserError(f"{setting}= is missing: give a file, a folder or a quoted glob")
    path = Path(wanted)
    if path.is_dir():
        found = images_in(path)
        if words := unread_below(path):
            if not found:
                raise UserError(f"{setting}={wanted}: {words}")
            log.warning("%s: %s", wanted, words)
    elif path.exists():
        found = [path]
    else:
        matches = sorted(map(Path, glob.glob(wanted, recursive=True)))
        found = list({os.path.abspath(path): path for path in matches}.values())  # each file once
    if not found:
        raise UserError(f"{setting}={wanted}: there is no image of that name; give a file, a folder or a quoted glob")
    if all(file.suffix.lower() in UNREAD_SUFFIXES for file in found):
        raise UserError(f"{setting}={wanted}: {found[0].suffix} files are not read: convert them to JPEG")
    return found


def check_apart(wanted: str, output: Path) -> None:
    """Checks that `output` is not inside the input folder `wanted`, where the next call would read it.

    Raises:
        UserError: it is inside.
    """
    if Path(wanted).is_dir() and output.resolve().is_relative_to(Path(wanted).resolve()):
        raise UserError(f"output={output} is inside input={wanted}; choose a folder elsewhere")


def output_paths(files: list[Path], output: Path, suffix: str = ".png") -> list[Path]:
    """The output path of each file: its place below the folder that all have in common, with its full name, so that no
    two are the same.
    """
    full = [os.path.abspath(file) for file in files]
    base = os.path.commonpath([os.path.dirname(file) for file in full])
    return [output / f"{os.path.relpath(file, base)}{suffix}" for file in full]


def spellings(name: str) -> tuple[str, ...]:
    """A name and its Unicode forms: accented letters as one character or, as on macOS, as a letter and a mark."""
    if name.isascii():
        return (name,)
    return tuple(dict.fromkeys([name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))]))


def find_below(folder: Path, name: str) -> Path | None:
    """The file or folder in `folder` that a path, perhaps from another machine, refers to: the longest end of it that
    exists there, such as train/images of /home/me/set/train/images. None if there is none; nothing outside of `folder`
    is found.
    """
    for spelled in spellings(name.replace("\\", "/")):
        parts = [p for p in PurePosixPath(spelled).parts if p.strip("/") not in ("", ".", "..")]
        for i in range(len(parts)):
            if os.path.exists(path := folder.joinpath(*parts[i:])):  # unlike Path's, it accepts any name
                return path
    return None
