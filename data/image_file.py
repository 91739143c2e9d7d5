"""Image files, opened and checked before anything is decoded. Nothing here needs torch."""

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

# What Pillow may open, whatever a file's name: other formats would start Ghostscript (EPS) or rarely tested decoders.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 100_000_000  # the default of data.max_pixels
MAX_BYTES = 1 << 30  # of a file
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # EXIF
STEPS = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}  # in `turned`
EXIF, EXIF_WITHIN = b"Exif\0\0", 1 << 17  # start of its segment, searched in so many bytes: JFIF may precede it
WIDE = ("I", "F")  # Pillow's modes of 32 bits a pixel, integer and float
START_OF_JPEG, END_OF_JPEG = b"\xff\xd8", b"\xff\xd9"
GREY = 128
LEAST_ROWS = 0.5  # fraction of its rows that a truncated JPEG must have to be used
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
# Pillow warns above its limit and raises above twice the limit; here both reject the image.
warnings.simplefilter("error", Image.DecompressionBombWarning)


def check_pixels(path: Path, width: int, height: int) -> None:
    """Raises BadImage if an image, by its header, has more pixels than the limit."""
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise BadImage(path, _too_large())


def _too_large() -> str:
    return f"it has more pixels than max_pixels={Image.MAX_IMAGE_PIXELS} allows"


def read_content(path: Path) -> bytes:
    """The content of a file, or of a member of a shard.

    Raises:
        BadImage: it is absent, larger than MAX_BYTES, or not a regular file (a device never ends, a pipe may block).
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
    """Opens a file with Pillow and checks its header; `content` is the file's content, if it was read already.

    Raises:
        BadImage: the file is absent, not an image or too large, or an error occurs in the block, which decodes it.
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


def read_pixels(path: Path, at_least: int, content: bytes | None = None) -> tuple[Pixels, tuple[int, int]]:
    """RGB (H, W, 3) uint8 and the file's own (height, width); arguments and errors as of `data.images.read_image`."""
    try:
        return _read_pixels(path, at_least, content)
    except BadImage as error:
        salvaged = salvage(error, path, content)
        if salvaged is None:
            raise
    found = _read_pixels(path, at_least, salvaged[0])
    if (noted := _salvaged.get()) is not None:
        noted.append((str(path), SALVAGED))
    return found


def _read_pixels(
    path: Path, at_least: int, content: bytes | None, upright: bool = True
) -> tuple[Pixels, tuple[int, int]]:
    with open_image(path, content) as file:
        width, height = file.size
        if upright:
            width, height = upright_size(file)
        file.draft("RGB", (at_least, at_least))
        return rgb_pixels(file, path, upright), (height, width)


def salvage(error: BadImage, path: Path, content: bytes | None = None) -> tuple[bytes, float] | None:
    """The content of a truncated JPEG, which raised `error`, with an end marker so that it can be decoded, and the
    fraction of its rows that are present. None for any other file, and if too many rows are missing.

    libjpeg decodes the missing blocks, which have no coefficients, as grey.
    """
    if "truncated" not in error.args[1]:
        return None
    try:
        whole = (read_content(path) if content is None else content) + END_OF_JPEG
        if not whole.startswith(START_OF_JPEG):
            return None
        pixels, _ = _read_pixels(path, 1 << 30, whole, upright=False)  # rows as stored
    except BadImage:
        return None
    rows = np.flatnonzero((pixels != GREY).any(axis=(1, 2)))
    fraction = float(rows[-1] + 1) / len(pixels) if len(rows) else 0.0
    return (whole, fraction) if fraction >= LEAST_ROWS else None


@contextmanager
def noting_salvaged() -> Iterator[list[tuple[str, str]]]:
    """A list to which each truncated image that is used in part is added: its path, and SALVAGED as the reason."""
    found: list[tuple[str, str]] = []
    token = _salvaged.set(found)
    try:
        yield found
    finally:
        _salvaged.reset(token)


def rgb_pixels(image: Image.Image, path: Path, upright: bool = True) -> Pixels:
    """RGB (H, W, 3) uint8 of Pillow's image of any mode, turned as its EXIF orientation says if `upright`; `path` is
    its name in errors.

    Raises:
        BadImage: it has 32-bit values.
    """
    check_mode(image, path)
    rotated = upright and exif_orientation(image) != 1  # otherwise the next line would copy it
    turned = ImageOps.exif_transpose(image) if rotated else image
    return np.array(to_8_bits(turned).convert("RGB"))


def check_mode(image: Image.Image, path: Path) -> None:
    """Raises BadImage if an image has 32-bit values."""
    if image.mode in WIDE:
        raise BadImage(path, "nothing says which of its 32-bit values is white; convert it to 8 or 16 bits")


def to_8_bits(image: Image.Image) -> Image.Image:
    """The upper 8 of 16 bits, where Pillow would clip; an image of any other mode as it is."""
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)) if image.mode.startswith("I;16") else image


def _reason(error: Exception) -> object:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or str(error) or type(error).__name__


def exif_orientation(image: Image.Image) -> int:
    """The orientation, 1 to 8, in an opened image's EXIF; 1 if there is none. EXIF after the pixels of a PNG is not
    looked for, because PngImageFile.getexif decodes them first, and Pillow itself turns a TIFF.
    """
    if image.format == "TIFF":
        return 1
    found = Image.Image.getexif(image).get(ORIENTATION, 1)
    return int(found) if found in range(1, 9) else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened image once it is upright."""
    width, height = image.size
    return (height, width) if exif_orientation(image) in SIDEWAYS else (width, height)


def jpeg_orientation(content: bytes) -> int:
    """The orientation, 1 to 8, in the EXIF of a JPEG's content; 1 if it has none, or none that can be read."""
    if content.find(EXIF, 0, EXIF_WITHIN) < 0:  # as in most training sets: nothing is parsed
        return 1
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as file:
            return exif_orientation(file)
    except Exception:  # Pillow raises errors of many kinds for a damaged header
        return 1


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """Turns pixels (H, W, 3) of an image as stored upright: rows and columns are swapped or reversed."""
    down, across = STEPS[orientation]
    return (pixels.transpose(1, 0, 2) if orientation in SIDEWAYS else pixels)[::down, ::across]


def image_size(path: Path) -> tuple[int, int] | None:
    """Width and height of the upright image, from a file's header; None if it cannot be read."""
    try:
        with open_image(path) as file:
            return upright_size(file)
    except BadImage:
        return None
