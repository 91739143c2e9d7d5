"""Files of images, opened and checked before anything is decoded. Nothing here needs torch."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from backbones.files import check_regular
from data.tar import is_member, read_member

# What Pillow may open, whatever a file's name says: others would start Ghostscript (EPS) or rarely tested decoders.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 100_000_000  # the default of data.max_pixels
MAX_BYTES = 1 << 30  # of a file
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # EXIF
WIDE = ("I", "F")  # Pillow's modes of 32 bits a pixel, integer and float
START_OF_JPEG, END_OF_JPEG = b"\xff\xd8", b"\xff\xd9"
GREY = 128
LEAST_ROWS = 0.5  # share of a truncated JPEG's rows with which it is used
SALVAGED = "it is truncated, and used as far as it goes"
Pixels = npt.NDArray[np.uint8]
_salvaged: ContextVar[list[tuple[str, str]] | None] = ContextVar("salvaged", default=None)


class BadImage(Exception):
    """An image that cannot be read. Its arguments are the path and the reason."""

    def __init__(self, path: Path, reason: object) -> None:
        super().__init__(str(path), " ".join(str(reason).split()))


def limit_pixels(count: int) -> None:
    """Sets how many pixels an image may have in this process. Pillow keeps the number, so that there is one limit."""
    Image.MAX_IMAGE_PIXELS = count


limit_pixels(MAX_PIXELS)
# Pillow warns above its limit and raises above twice of it; here both refuse the image.
warnings.simplefilter("error", Image.DecompressionBombWarning)


def check_pixels(path: Path, width: int, height: int) -> None:
    """Raises BadImage where an image, by its header, has more pixels than the limit."""
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise BadImage(path, _too_large())


def _too_large() -> str:
    return f"it has more pixels than max_pixels={Image.MAX_IMAGE_PIXELS} allows"


def read_content(path: Path) -> bytes:
    """What a file, or a member of a shard, holds.

    Raises:
        BadImage: it is absent, larger than MAX_BYTES, or no regular file (a device never ends, a pipe never begins).
    """
    try:
        if is_member(path):
            return read_member(path)
        check_regular(path, MAX_BYTES)
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise BadImage(path, _reason(error)) from error


@contextmanager
def open_image(path: Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """Pillow's image of a file whose header is read and checked; `content` is what the file holds, if known.

    Raises:
        BadImage: the file is absent, not an image, too large, or the block could not decode it.
    """
    try:
        if content is None and is_member(path):
            content = read_member(path)
        if content is None:
            check_regular(path, MAX_BYTES)
        with Image.open(path if content is None else io.BytesIO(content), formats=FORMATS) as file:
            check_pixels(path, *file.size)
            yield file
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        raise BadImage(path, f"it is not an image of a known format ({', '.join(FORMATS)})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(path, _too_large()) from error
    except Exception as error:  # decoders raise nearly anything on a damaged file
        raise BadImage(path, _reason(error)) from error


def read_pixels(
    path: Path, at_least: int, upright: bool = False, content: bytes | None = None
) -> tuple[Pixels, tuple[int, int]]:
    """RGB (H, W, 3) uint8 and the file's own (height, width); arguments and errors as of `data.images.read_image`."""
    try:
        return _read_pixels(path, at_least, upright, content)
    except BadImage as error:
        whole = _completed(path, content) if "truncated" in error.args[1] else None
        if whole is None:
            raise
    found = _read_pixels(path, at_least, upright, whole)
    if (noted := _salvaged.get()) is not None:
        noted.append((str(path), SALVAGED))
    return found


def _read_pixels(path: Path, at_least: int, upright: bool, content: bytes | None) -> tuple[Pixels, tuple[int, int]]:
    with open_image(path, content) as file:
        width, height = file.size
        file.draft("RGB", (at_least, at_least))
        if upright and file.getexif().get(ORIENTATION, 1) in SIDEWAYS:
            width, height = height, width
        return rgb_pixels(file, path, upright), (height, width)


def _completed(path: Path, content: bytes | None) -> bytes | None:
    """A truncated JPEG with an end, so that it can be decoded; None where it lacks too many of its rows, or is none.

    What is missing becomes grey, which libjpeg makes of blocks without coefficients.
    """
    whole = (read_content(path) if content is None else content) + END_OF_JPEG
    if not whole.startswith(START_OF_JPEG):
        return None
    try:
        pixels, _ = _read_pixels(path, 1 << 30, False, whole)
    except BadImage:
        return None
    rows = np.flatnonzero((pixels != GREY).any(axis=(1, 2)))
    return whole if len(rows) and rows[-1] + 1 >= LEAST_ROWS * len(pixels) else None


@contextmanager
def noting_salvaged() -> Iterator[list[tuple[str, str]]]:
    """A list to which each truncated image that is used all the same is added: its path, and SALVAGED as the reason."""
    found: list[tuple[str, str]] = []
    token = _salvaged.set(found)
    try:
        yield found
    finally:
        _salvaged.reset(token)


def rgb_pixels(image: Image.Image, path: Path, upright: bool) -> Pixels:
    """RGB (H, W, 3) uint8 of Pillow's image of any mode, turned as its EXIF orientation says if `upright`; `path` is
    its name in errors.

    Raises:
        BadImage: it has 32-bit values.
    """
    if image.mode in WIDE:
        raise BadImage(path, "nothing says which of its 32-bit values is white; convert it to 8 or 16 bits")
    turned = ImageOps.exif_transpose(image) if upright else image
    if turned.mode.startswith("I;16"):  # Pillow would clip, not scale
        turned = Image.fromarray((np.asarray(turned) >> 8).astype(np.uint8))
    return np.array(turned.convert("RGB"))


def _reason(error: Exception) -> object:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or str(error) or type(error).__name__


def orientation(path: Path) -> int:
    """What the EXIF of an image says of how to turn it, 1 to 8; 1 where it says nothing or cannot be read."""
    try:
        with open_image(path) as file:
            return int(file.getexif().get(ORIENTATION, 1))
    except (BadImage, TypeError, ValueError):
        return 1


def image_size(path: Path) -> tuple[int, int] | None:
    """Width and height that a file's header gives; None where it cannot be read."""
    try:
        with open_image(path) as file:
            return file.size
    except BadImage:
        return None
