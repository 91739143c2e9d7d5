"""Inspects image files: headers, a digest of the content, and the pixels of some. Nothing here needs torch."""

import hashlib
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from backbones.errors import UserError
from backbones.files import check_regular
from backbones.processors import usable_cores
from data.image_file import (
    BadImage,
    check_mode,
    exif_orientation,
    limit_pixels,
    open_image,
    salvage,
    to_8_bits,
    upright_size,
)

THUMB = (18, 16)  # width and height of the grey thumbnails that are compared
END = 1 << 16  # bytes: of a file longer than two of these only both ends are hashed
DECODED = 30_000  # images of a data set whose pixels are decoded, at most
AT_ONCE = 64  # files that a process takes at a time
MANY = 1000  # files from which on several processes inspect them
ABSENT = "there is no such file"


class FileInfo(NamedTuple):
    """What is known of a file. If `problem` says why it cannot be read, only what was read before that is known."""

    problem: str | None = None
    format: str = ""
    mode: str = ""  # Pillow's
    width: int = 0
    height: int = 0
    orientation: int = 1  # EXIF
    length: int = 0  # bytes
    digest: bytes = b""  # of the content, or of both ends of it
    thumb: bytes | None = None  # grey, THUMB; None if the pixels were not decoded
    rows: float | None = None  # of a JPEG that ends early, the fraction of its rows that are there


def inspect_file(path: Path, decode: bool) -> FileInfo:
    """Reads a file. Its pixels are decoded if `decode`, or if the file seems to end early."""
    info = FileInfo()
    try:
        check_regular(path)
        with path.open("rb") as file:
            head = file.read(2 * END)
            size = os.fstat(file.fileno()).st_size
            tail = head
            if size > len(head):
                file.seek(-END, os.SEEK_END)
                head, tail = head[:END], file.read(END)
        info = info._replace(length=size, digest=hashlib.blake2b(head + tail, digest_size=16).digest())
        if not size:
            raise BadImage(path, "the file is empty")
        with open_image(path) as image:
            width, height = upright_size(image)
            info = info._replace(format=image.format or "", mode=image.mode, width=width, height=height)
            info = info._replace(orientation=exif_orientation(image))
            check_mode(image, path)
            if decode or not _ends(image.format, tail):
                info = info._replace(thumb=_thumb(image))
    except BadImage as error:
        if salvaged := salvage(error, path):
            return info._replace(rows=salvaged[1])
        return info._replace(problem=error.args[1])
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or str(error)
        return info._replace(problem=ABSENT if isinstance(error, FileNotFoundError) else " ".join(words.split()))
    return info


def _ends(format: str | None, tail: bytes) -> bool:
    """Whether a file ends with its format's end marker, if the format has one."""
    if format == "JPEG":
        return b"\xff\xd9" in tail[-1024:]  # some cameras write more after it
    return b"IEND" in tail[-64:] if format == "PNG" else True


def _thumb(image: Image.Image) -> bytes:
    """The image's THUMB. A large JPEG is decoded at a smaller scale, for which all of its data is read."""
    image.draft("L", (2 * THUMB[0], 2 * THUMB[1]))
    return to_8_bits(image).convert("L").resize(THUMB, Image.Resampling.BOX).tobytes()


def inspect_files(paths: Sequence[Path], decoded: int, max_pixels: int) -> Iterator[FileInfo]:
    """Inspects each file, in order, in several processes if there are many. Of `decoded` files, spread evenly, the
    pixels are decoded.

    Raises:
        UserError: a decoder crashed.
    """
    count = min(decoded, len(paths))
    sampled = {-(-i * len(paths) // count) for i in range(count)}
    wanted = [i in sampled for i in range(len(paths))]
    if len(paths) < MANY:
        yield from map(inspect_file, paths, wanted)
        return
    start = partial(_start, max_pixels)
    processes = min(8, usable_cores())
    # spawn: forking is unsafe while torch has threads
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), start) as pool:
        try:
            yield from pool.map(inspect_file, paths, wanted, chunksize=AT_ONCE)
        except BrokenProcessPool as error:
            raise UserError("a process that decoded images died, of a damaged image or for lack of memory") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start(max_pixels: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command's own process ends this one
    limit_pixels(max_pixels)


def thumbs(infos: Sequence[FileInfo]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Which files have a thumbnail (T,), and these (T, height, width), from 0 to 255."""
    rows = [i for i, info in enumerate(infos) if info.thumb is not None]
    pixels = np.frombuffer(b"".join(infos[i].thumb or b"" for i in rows), np.uint8)
    return np.array(rows, np.intp), pixels.reshape(-1, THUMB[1], THUMB[0]).astype(np.float32)
