"""Looks at image files: their headers, a digest of their content, and of some the pixels. Nothing here needs torch."""

import hashlib
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from backbones.errors import UserError
from backbones.files import check_regular
from backbones.processors import usable_cores
from data.image_file import ORIENTATION, WIDE, BadImage, limit_pixels, open_image

THUMB = (18, 16)  # width and height of the grey thumbnails that are compared
END = 1 << 16  # bytes: of a file longer than two of these only both ends are hashed
DECODED = 30_000  # images of a set whose pixels are looked at
AT_ONCE = 64  # files a turn of a process
MANY = 1000  # files that are worth further processes
LEAST_ROWS = 0.5  # of a truncated JPEG, for it to be of use
ABSENT = "there is no such file"


class Seen(NamedTuple):
    """What is known of a file. Where `problem` says why it cannot be read, only what came before that is known."""

    problem: str | None = None
    format: str = ""
    mode: str = ""  # Pillow's
    width: int = 0
    height: int = 0
    orientation: int = 1  # EXIF
    length: int = 0  # bytes
    digest: bytes = b""  # of the content, or of both ends of it
    thumb: bytes | None = None  # grey, THUMB; None where the pixels were not looked at
    rows: float | None = None  # of a JPEG that ends early, the share of its rows that is there


def look(path: Path, decode: bool) -> Seen:
    """What a file is. Its pixels are decoded if `decode`, or where the file seems to end early."""
    seen = Seen()
    try:
        check_regular(path)
        with path.open("rb") as file:
            head = file.read(2 * END)
            size = os.fstat(file.fileno()).st_size
            tail = head
            if size > len(head):
                file.seek(-END, os.SEEK_END)
                head, tail = head[:END], file.read(END)
        seen = seen._replace(length=size, digest=hashlib.blake2b(head + tail, digest_size=16).digest())
        if not size:
            raise BadImage(path, "the file is empty")
        with open_image(path) as image:
            seen = seen._replace(format=image.format or "", mode=image.mode, width=image.width, height=image.height)
            # Pillow decodes a PNG to find EXIF after its pixels
            if image.format != "PNG" or "exif" in image.info:
                seen = seen._replace(orientation=image.getexif().get(ORIENTATION, 1))
            if image.mode in WIDE:
                raise BadImage(path, "nothing says which of its 32-bit values is white; convert it to 8 or 16 bits")
            if decode or not _ends(image.format, tail):
                seen = seen._replace(thumb=_thumb(image))
    except BadImage as error:
        if seen.format == "JPEG" and (rows := rows_of(path)) >= LEAST_ROWS:
            return seen._replace(rows=rows)
        return seen._replace(problem=error.args[1])
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or str(error)
        return seen._replace(problem=ABSENT if isinstance(error, FileNotFoundError) else " ".join(words.split()))
    return seen


def _ends(format: str | None, tail: bytes) -> bool:
    """Whether a file's last bytes are as its format wants them, as far as that is quickly seen."""
    if format == "JPEG":
        return b"\xff\xd9" in tail[-1024:]  # some cameras write more after it
    return b"IEND" in tail[-64:] if format == "PNG" else True


def _thumb(image: Image.Image) -> bytes:
    """The image's THUMB, of a JPEG decoded at an eighth of its size, for which all of its data is read."""
    image.draft("L", (2 * THUMB[0], 2 * THUMB[1]))
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("L").resize(THUMB, Image.Resampling.BOX).tobytes()


@contextmanager
def truncated_allowed() -> Iterator[None]:
    """Within it, Pillow returns as much of a truncated image as there is."""
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def rows_of(path: Path) -> float:
    """The share of a truncated JPEG's rows that are there; libjpeg makes the others grey."""
    try:
        with truncated_allowed(), open_image(path) as image:
            image.draft("L", (2 * THUMB[0], 2 * THUMB[1]))
            grey = np.abs(np.asarray(image.convert("L"), np.int16) - 128) <= 1
            filled = np.flatnonzero(~grey.all(axis=1))
            return float(filled[-1] + 1) / image.height if len(filled) else 0.0
    except BadImage:
        return 0.0


def look_at_all(paths: Sequence[Path], decoded: int = DECODED, max_pixels: int | None = None) -> Iterator[Seen]:
    """What each file is, in order, by several processes where there are many. The pixels of `decoded` files, spread
    evenly, are looked at.

    Raises:
        UserError: a decoder crashed.
    """
    step = max(1.0, len(paths) / decoded) if decoded else 0.0
    # every step-th file
    wanted = [bool(step) and int(i / step) != int((i - 1) / step) for i in range(len(paths))]
    if wanted and step:
        wanted[0] = True
    if len(paths) < MANY:
        yield from map(look, paths, wanted)
        return
    start = partial(_start, max_pixels if max_pixels is not None else Image.MAX_IMAGE_PIXELS or 0)
    processes = min(8, usable_cores())
    # spawn: a fork would copy torch's threads in whatever state they are
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), start) as pool:
        try:
            yield from pool.map(look, paths, wanted, chunksize=AT_ONCE)
        except BrokenProcessPool as error:
            raise UserError("a process that decoded images was ended, by a damaged image or for its memory") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start(max_pixels: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command's own process ends this one
    limit_pixels(max_pixels)


def thumbs(seen: Sequence[Seen]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Which files have a thumbnail (T,), and these (T, height, width), from 0 to 255."""
    rows = [i for i, s in enumerate(seen) if s.thumb is not None]
    pixels = np.frombuffer(b"".join(seen[i].thumb or b"" for i in rows), np.uint8)
    return np.array(rows, np.intp), pixels.reshape(-1, THUMB[1], THUMB[0]).astype(np.float32)
