"""Checks single image files."""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from data.files import IMAGE_SUFFIXES, UNREAD_SUFFIXES, is_hidden
from tasks.inspect.contents import Contents
from tasks.inspect.files import ABSENT, FileInfo
from tasks.inspect.findings import Example, Finding, finding

SUFFIXES = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "PNG": {".png"},
    "WEBP": {".webp"},
    "BMP": {".bmp"},
    "TIFF": {".tif", ".tiff"},
    "GIF": {".gif"},
}
MODES = {
    "RGBA": "transparency, which is left out",
    "LA": "transparency, which is left out",
    "PA": "transparency, which is left out",
    "CMYK": "print colours (CMYK), which look different on each screen",
    "I;16": "16 bits a pixel, of which the upper 8 are used",
    "I;16B": "16 bits a pixel, of which the upper 8 are used",
}
LEAST_SIDE, LONG = 32, 5.0  # least shorter side in pixels, largest ratio of the sides
FLAT = 1.0  # grey levels by which a thumbnail of a single colour may vary

# What is wrong with a file, in words; empty if nothing is.
Test = Callable[[Path, FileInfo], str]


def _absent(path: Path, info: FileInfo) -> str:
    return info.problem if info.problem == ABSENT else ""


def _unreadable(path: Path, info: FileInfo) -> str:
    return info.problem if info.problem and info.problem != ABSENT else ""


def _truncated(path: Path, info: FileInfo) -> str:
    return f"{info.rows:.0%} of its rows are there" if info.rows is not None else ""


def _misnamed(path: Path, info: FileInfo) -> str:
    wrong = not info.problem and path.suffix.lower() not in SUFFIXES.get(info.format, {path.suffix.lower()})
    return f"it is {info.format}" if wrong else ""


def _rotated(path: Path, info: FileInfo) -> str:
    return f"orientation {info.orientation}" if not info.problem and info.orientation in range(2, 9) else ""


def _mode(path: Path, info: FileInfo) -> str:
    return MODES.get(info.mode, "") if not info.problem else ""


def _tiny(path: Path, info: FileInfo) -> str:
    side = min(info.width, info.height)
    return f"{info.width} x {info.height}" if not info.problem and side < LEAST_SIDE else ""


def _long(path: Path, info: FileInfo) -> str:
    sides = sorted((info.width, info.height))
    long = not info.problem and sides[0] >= LEAST_SIDE and sides[1] > LONG * sides[0]
    return f"{info.width} x {info.height}" if long else ""


def _flat(path: Path, info: FileInfo) -> str:
    flat = info.thumb is not None and np.ptp(np.frombuffer(info.thumb, np.uint8)) <= FLAT
    return "a single colour" if flat else ""


# kind, title, test, hint, whether it is a fault
TESTS: tuple[tuple[str, str, Test, str, bool], ...] = (
    ("missing", "images that do not exist", _absent, "correct their names in the annotations, or copy the files", True),
    ("unreadable", "images that cannot be read", _unreadable, "replace them, or remove them with their labels", True),
    ("truncated", "JPEGs that end early", _truncated, "download them again; the rows that exist are used", True),
    ("flat", "images of a single colour", _flat, "check whether something went wrong when they were made", True),
    ("tiny", f"images with a side under {LEAST_SIDE} pixels", _tiny, "check whether they are thumbnails", True),
    ("long", f"images over {LONG:g} times as long as wide", _long, "cut them: they are resized to a square", False),
    ("misnamed", "files of another format than their suffix", _misnamed, "they are read by their content", False),
    ("mode", "images of unusual pixels", _mode, "convert them to RGB if this is not intended", False),
)


def findings(contents: Contents, infos: Sequence[FileInfo]) -> Iterator[Finding]:
    files = dict(zip(contents.paths, infos, strict=True))
    for kind, title, test, hint, fault in TESTS:
        examples = [Example(path, words) for path, s in files.items() if (words := test(path, s))]
        yield from finding(kind, title, examples, hint, fault)
    rotated = [Example(path, words) for path, s in files.items() if (words := _rotated(path, s))]
    hint = "they are rotated upright when they are read"
    if contents.boxes is not None:
        hint += ", and their boxes refer to the upright image: see whether they fit"
    yield from finding("rotated", "images with an EXIF rotation", rotated, hint, contents.boxes is not None)
    unread = [Example(path, f"{path.suffix} is not read") for path in _beside(contents.paths, UNREAD_SUFFIXES)]
    yield from finding("unread", "photos of formats that are not read", unread, "convert them to JPEG")
    lone = [Example(path, "no split lists it") for path in _beside(contents.paths, IMAGE_SUFFIXES)]
    yield from finding("unlisted", "images that no split lists", lone, "they are not used", False)


def _beside(paths: Sequence[Path], suffixes: Collection[str]) -> list[Path]:
    """The other files with these suffixes in the folders of images."""
    known = set(paths)
    return [
        path
        for folder in sorted({path.parent for path in paths})
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in suffixes and not is_hidden(path.name) and path not in known
    ]
