"""What is odd about the files of images, each by itself."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data.files import IMAGE_SUFFIXES, is_hidden
from tasks.inspect.contents import Contents
from tasks.inspect.files import ABSENT, Seen
from tasks.inspect.findings import Example, Finding, finding

SUFFIXES = {
    "JPEG": {".jpg", ".jpeg"},
    "PNG": {".png"},
    "WEBP": {".webp"},
    "BMP": {".bmp"},
    "TIFF": {".tif", ".tiff"},
}
MODES = {
    "RGBA": "transparency, which is left out",
    "LA": "transparency, which is left out",
    "PA": "transparency, which is left out",
    "CMYK": "colours of print (CMYK), which look different on each screen",
    "I;16": "16 bits a pixel, of which the upper 8 are used",
    "I;16B": "16 bits a pixel, of which the upper 8 are used",
}
LEAST_SIDE, LONG = 32, 5.0  # pixels of an image's shorter side; the longer side by the shorter
FLAT = 1.0  # grey levels that a thumbnail of a single colour may vary

# What is wrong with a file, in words; nothing where it is right.
Test = Callable[[Path, Seen], str]


def _absent(path: Path, seen: Seen) -> str:
    return seen.problem if seen.problem == ABSENT else ""


def _unreadable(path: Path, seen: Seen) -> str:
    return seen.problem if seen.problem and seen.problem != ABSENT else ""


def _truncated(path: Path, seen: Seen) -> str:
    return f"{seen.rows:.0%} of its rows are there" if seen.rows is not None else ""


def _misnamed(path: Path, seen: Seen) -> str:
    wrong = not seen.problem and path.suffix.lower() not in SUFFIXES.get(seen.format, {path.suffix.lower()})
    return f"it is {seen.format}" if wrong else ""


def _rotated(path: Path, seen: Seen) -> str:
    return f"orientation {seen.orientation}" if not seen.problem and seen.orientation in range(2, 9) else ""


def _mode(path: Path, seen: Seen) -> str:
    return MODES.get(seen.mode, "") if not seen.problem else ""


def _tiny(path: Path, seen: Seen) -> str:
    side = min(seen.width, seen.height)
    return f"{seen.width} x {seen.height}" if not seen.problem and side < LEAST_SIDE else ""


def _long(path: Path, seen: Seen) -> str:
    sides = sorted((seen.width, seen.height))
    long = not seen.problem and sides[0] >= LEAST_SIDE and sides[1] > LONG * sides[0]
    return f"{seen.width} x {seen.height}" if long else ""


def _flat(path: Path, seen: Seen) -> str:
    flat = seen.thumb is not None and np.ptp(np.frombuffer(seen.thumb, np.uint8)) <= FLAT
    return "a single colour" if flat else ""


# kind, title, test, hint, whether it is a fault
TESTS: tuple[tuple[str, str, Test, str, bool], ...] = (
    ("missing", "images that do not exist", _absent, "correct their names in the annotations, or copy the files", True),
    ("unreadable", "images that cannot be read", _unreadable, "replace them, or remove them with their labels", True),
    ("truncated", "JPEGs that end early", _truncated, "fetch them again; what is there of them is used", True),
    ("flat", "images of a single colour", _flat, "look whether something went wrong when they were made", True),
    ("tiny", f"images with a side under {LEAST_SIDE} pixels", _tiny, "look whether they are thumbnails", True),
    ("long", f"images over {LONG:g} times as long as wide", _long, "cut them: they are squeezed to a square", False),
    ("misnamed", "files that are not what their names end with", _misnamed, "they are read all the same", False),
    ("mode", "images of unusual pixels", _mode, "convert them to RGB if that is not what is meant", False),
)


def findings(contents: Contents, seen: Sequence[Seen]) -> Iterator[Finding]:
    files = dict(zip(contents.paths, seen, strict=True))
    for kind, title, test, hint, fault in TESTS:
        examples = [Example(path, words) for path, s in files.items() if (words := test(path, s))]
        yield from finding(kind, title, examples, hint, fault)
    rotated = [Example(path, words) for path, s in files.items() if (words := _rotated(path, s))]
    hint = "YOLO's labels are taken for the image as it is seen, others' as it is stored: see whether the boxes fit"
    if contents.boxes is None:
        hint = "training sees them as they are stored, prediction turns them upright: turn the files"
    yield from finding("rotated", "images that EXIF turns", rotated, hint, contents.boxes is not None)
    lone = [Example(path, "no split lists it") for path in _unlisted(contents.paths)]
    yield from finding("unlisted", "images that no split lists", lone, "they are not used", False)


def _unlisted(paths: Sequence[Path]) -> list[Path]:
    known = set(paths)
    return [
        path
        for folder in sorted({path.parent for path in paths})
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path.name) and path not in known
    ]
