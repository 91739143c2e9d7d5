"""Photos and their positions: tables in CSV, and folders of photos with GPS in their EXIF. Nothing here needs torch."""

import csv
import logging
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from backbones.errors import UserError
from backbones.files import check_regular
from data.files import images_in, unread_below
from data.geo.s2 import Floats
from data.image_file import BadImage, open_image
from data.rejects import Rejects
from data.table import (
    IMAGE_COLUMNS,
    PEEK,
    POSITIONS,
    SPLIT_COLUMNS,
    Images,
    Table,
    header_delimiter,
    image_column,
    says_splits,
)

log = logging.getLogger(__name__)

GPS_IFD = 0x8825
NO_GPS = "no GPS position in its EXIF"


@dataclass(frozen=True)
class Places:
    """Photos and their positions: N paths, (N, 2) latitudes and longitudes in degrees, and the N words of a table's
    column of splits, if it has one.
    """

    paths: list[Path]
    positions: Floats
    words: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.paths)


def problem(latitude: float, longitude: float) -> str | None:
    """The reason why a position in degrees is not valid, if any."""
    if math.isnan(latitude) or math.isnan(longitude):
        return "without a position"
    if latitude == longitude == 0:  # in the ocean: cameras write it before they know where they are
        return "at latitude 0 and longitude 0"
    if abs(latitude) <= 90 and abs(longitude) <= 180:
        return None
    if 90 < abs(latitude) <= 180 and abs(longitude) <= 90:
        return "with latitude and longitude swapped"
    return "out of range"


def read_csv(path: Path, root: Path, max_bad: float) -> Places:
    """The rows of a table with a header; its paths are found by data.table.Images, or are relative to `root`.

    Raises:
        UserError: the file or a column is absent, it has no rows, or too many of them are unusable.
    """
    rejects, paths, positions, words, total = Rejects(path), [], [], [], 0
    inside = os.path.join(os.path.abspath(root), "")  # with one separator at the end, even for "/"
    try:
        check_regular(path, None)
        images = Images(path, root)
        with path.open(newline="", encoding="utf-8-sig") as file:
            delimiter = header_delimiter(file)
            decimal = "." if delimiter == "," else ","  # as German spreadsheets write 48,85
            rows = islice(csv.reader(file, delimiter=delimiter), 1 + PEEK)
            header, *start = [[value.strip() for value in row] for row in rows] or [[]]
            table = Table(path, header, start)
            columns = _columns(table, images)
            small = [name.lower() for name in table.columns]
            split_at = next((small.index(name) for name in SPLIT_COLUMNS if name in small), None)
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter)
            next(reader, None)
            for row in ([value.strip() for value in values] for values in reader if values):
                total += 1
                found = _place(row, columns, decimal, images, inside)
                if isinstance(found, str):
                    rejects.add(found, f"line {reader.line_num}, {','.join(row)[:80]}")
                else:
                    paths.append(found[0])
                    positions.append(found[1])
                    words.append(row[split_at] if split_at is not None and split_at < len(row) else "")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path} cannot be read: {reason}") from error
    rejects.report(total, max_bad)
    return Places(paths, np.array(positions), words if says_splits(words) else [])


def _place(
    row: Sequence[str], columns: Sequence[int], decimal: str, images: Images, inside: str
) -> tuple[Path, tuple[float, float]] | str:
    """The photo of a row and its latitude and longitude, or the reason why the row cannot be used. `columns` are those
    of path, latitude and longitude, `decimal` is their decimal point; the photo must be `inside` this folder.
    """
    name_at, *degrees_at = columns
    try:
        latitude, longitude = (float(row[i].replace(decimal, ".") or "nan") for i in degrees_at)
        photo = images.find(row[name_at]) or images.root / row[name_at]
        if not os.path.abspath(photo).startswith(inside):
            return f"with a file outside of {images.root}"
    except (ValueError, IndexError):
        return "without numbers"
    return problem(latitude, longitude) or (photo, (latitude, longitude))


def _columns(table: Table, images: Images) -> list[int]:
    """The columns of path, latitude and longitude; without any image, that of path by its name."""
    small = [name.lower() for name in table.columns]
    found = []
    for wanted, known in {"path": (*IMAGE_COLUMNS, "id"), **POSITIONS}.items():
        at = next((small.index(name) for name in known if name in small), None)
        if wanted == "path" and (name := image_column(table, images)) is not None:
            at = table.columns.index(name)
        if at is None:
            shown = " ".join(",".join(table.columns).split())[:200]
            raise UserError(f"{table.path} is empty or has no column {wanted}; its header is {shown or 'absent'}")
        found.append(at)
    return found


def exif_position(path: Path) -> tuple[float, float] | str:
    """Latitude and longitude in a photo's EXIF, or the reason why there are none.

    Raises:
        BadImage: the photo cannot be read.
    """
    with open_image(path) as image:
        gps = image.getexif().get_ifd(GPS_IFD)
    degrees = []
    for reference, value, signs in ((1, 2, {"N": 1, "S": -1}), (3, 4, {"E": 1, "W": -1})):
        try:
            whole, minutes, seconds = (float(part) for part in gps[value])
            sign = signs[str(gps[reference]).strip("\0 ").upper()]
        except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError):
            return NO_GPS
        degrees.append(sign * (whole + minutes / 60 + seconds / 3600))
    if math.isnan(sum(degrees)):  # 0/0, which cameras write before they know where they are
        return NO_GPS
    if wrong := problem(*degrees):
        return f"a GPS position {wrong}"
    return degrees[0], degrees[1]


def has_positions(folder: Path) -> bool:
    """Whether any of up to about 1000 photos, spread over a folder, has a GPS position."""
    photos = images_in(folder)
    for path in photos[:: 1 + len(photos) // 1000]:
        with suppress(BadImage):
            if not isinstance(exif_position(path), str):
                return True
    return False


def read_folder(folder: Path) -> Places:
    """The photos below a folder whose EXIF has a GPS position; many cameras write none, so any number may lack it.

    Raises:
        UserError: there are none, or all lack it.
    """
    rejects, paths, positions = Rejects(folder, "photos"), [], []
    photos = images_in(folder)
    if words := unread_below(folder):
        if not photos:
            raise UserError(f"{folder}: {words}")
        log.warning("%s: %s", folder, words)
    for path in photos:
        try:
            found = exif_position(path)
        except BadImage as error:
            rejects.add("that cannot be read", f"{path.name}, {error.args[1]}")
            continue
        if isinstance(found, str):
            rejects.add(f"with {found}", path.name)
        else:
            positions.append(found)
            paths.append(path)
    if {*rejects.kinds} == {f"with {NO_GPS}"} and not paths:
        beside = next(folder.rglob("*.suppl*.json"), None)  # the longer a photo's name, the shorter the rest
        unread = f" ({beside.name} and the like, of Google Takeout, are not read)" if beside else ""
        raise UserError(
            f"{folder}: none of its {len(photos)} photos has a GPS position in its EXIF{unread}; give a table with "
            "latitude and longitude"
        )
    rejects.report(len(photos), max_bad=1.0)
    return Places(paths, np.array(positions))
