"""Tables of images: CSV, TSV or JSON lines with a column of file names. Nothing here needs torch."""

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice, product
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from backbones.errors import UserError
from backbones.files import check_regular
from data.files import IMAGE_FOLDERS, IMAGE_SUFFIXES, escapes, images_in, is_hidden, spellings
from data.splits import split_from_word, split_in_name, split_of_file

SUFFIXES = (".csv", ".tsv", ".jsonl")
PEEK = 100  # rows that are read to recognise columns
MOST = 4096  # characters of a path, as of Linux
FOLDERS = 100  # folders beside a table that are searched for its images
CLASSES = ("label", "class", "target", "category", "class_name", "label_name", "labels", "species", "breed")
TARGETS = (*CLASSES, "choice", "y")  # choice is Label Studio's
NAMES = ("filename", "file_name", "file", "image", "image_name", "image_path", "path", "filepath", "photo", "img")
IMAGE_COLUMNS = (*NAMES, "image_id", "img_id")
NUMBERS = ("", "id", "index")  # columns that often number the rows
SPLIT_COLUMNS = ("split", "subset", "partition", "set", "data set", "data_set", "dataset", "usage")
POSITIONS = {
    "latitude": ("latitude", "lat", "gpslatitude"),
    "longitude": ("longitude", "lon", "lng", "long", "gpslongitude"),
}
BINARY = {"1": 1, "0": 0, "-1": 0, "yes": 1, "no": 0, "y": 1, "n": 0, "true": 1, "false": 0, "": -1}  # -1: unknown
BINARY |= {"1.0": 1, "0.0": 0, "-1.0": 0}  # as pandas writes a column in which some are unknown
GROUP = re.compile(r"\w+(_id|_ID|Id|ID)")


class Table(NamedTuple):
    """A table's column names and rows; a row may have more or fewer values than there are columns."""

    path: Path
    columns: list[str]
    rows: list[list[str]]

    def column(self, name: str, setting: str) -> int:
        """The index of the column with this name.

        Raises:
            UserError: there is none; the error lists the columns.
        """
        if name not in self.columns:
            raise UserError(f"{self.path} has no column {name} ({setting}); its columns are {self.names}")
        return self.columns.index(name)

    def values(self, column: int, most: int | None = None) -> list[str]:
        """The values of a column that are not empty, at most `most` of them."""
        found = (row[column] for row in self.rows if column < len(row) and row[column])
        return list(islice(found, most))

    @property
    def names(self) -> str:
        return ", ".join(self.columns)[:300]


def read_table(path: Path, most: int | None = None) -> Table:
    """A table, or its first rows.

    Raises:
        UserError: it is absent, larger than a gigabyte, not UTF-8, not a table, or without a header.
    """
    try:
        check_regular(path)
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = _json_lines(file, most) if path.suffix.lower() == ".jsonl" else _csv_lines(file, most)
            header, *rows = [*lines] or [[]]
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path} cannot be read: {reason}") from error
    columns = [name.strip() for name in header]
    if len(columns) < 2 or len(set(columns)) < len(columns):
        raise UserError(f"{path} should have a header that names at least two columns, each once")
    return Table(path, columns, [[value.strip() for value in row] for row in rows if row])


def delimiter_of(line: str) -> str:
    """The delimiter of a line of a CSV file: the comma, semicolon or tab, whichever it has most of."""
    return max(",;\t", key=line.count)


def header_delimiter(file: IO[str]) -> str:
    """The delimiter of the header of a CSV file, which is read from its start afterwards."""
    start = file.readline(1 << 16)
    file.seek(0)
    return delimiter_of(start)


def _csv_lines(file: IO[str], most: int | None) -> Iterator[list[str]]:
    return islice(csv.reader(file, delimiter=header_delimiter(file)), None if most is None else most + 1)


def _json_lines(file: IO[str], most: int | None) -> Iterator[list[str]]:
    """As a table: the keys of the first object, then each object's values."""
    header: list[str] = []
    for line in islice(file, most):
        if line.strip():
            content = json.loads(line)
            if not isinstance(content, dict):
                raise ValueError(f"{line.strip():.60} is not a JSON object")
            if not header:
                yield (header := list(content))
            yield [_text(content.get(name)) for name in header]


def _text(value: object) -> str:
    """A JSON value as a cell of CSV."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


class Images:
    """The images that a table may name: with or without suffix, in the table's folder, its sub-folders, or `root`. Of a
    path from another machine, such as C:\\set\\images\\1.jpg, the longest end is used that exists.

    Several sub-folders may have images of the same names. One with the table's own name, such as train/ beside
    train.csv, is the only one that is searched; otherwise those of the table's split come first, then those that are
    called images or the like, then the others, but never those of another split. A file name that is in none of these
    may be that of a single image anywhere below `root`.
    """

    def __init__(self, table: Path, root: Path) -> None:
        self.table, self.root = table, root
        own = table.parent
        twin = own / table.stem
        folders = sorted(p for p in own.iterdir() if p.is_dir() and not is_hidden(p.name))
        inside = [twin] if twin.is_dir() else folders[:FOLDERS]
        levels: tuple[list[Path], ...] = ([own], [], [], [], [root])
        self.split = split = split_of_file(table, root)
        inside += [folder / folder.name for folder in inside if (folder / folder.name).is_dir()]  # of some archives
        for folder in inside:
            its = split_in_name(folder.name) if split and folder != twin else None
            if its in (None, split):
                levels[1 if its else 2 if folder.name.lower() in IMAGE_FOLDERS else 3].append(folder)
        self.levels = levels
        self.near = ([own], levels[2], [root])  # where the end of a path from another machine may be
        self.listed: dict[Path, dict[str, str]] = {}

    def find(self, value: str) -> Path | None:
        """The file that a value names, if any; never one outside of these folders.

        Raises:
            UserError: several folders have such a file, and nothing says which is meant.
        """
        found = self.candidates(value)
        if len(found) > 1:
            raise UserError(
                f"{self.table}: {value} may be {found[0]} or {found[1]}: name the folder in the table, "
                "or move the table into the folder of its images"
            )
        return found[0] if found else None

    def candidates(self, value: str) -> list[Path]:
        """The files that a value may name."""
        if len(value) > MOST or "\0" in value:
            return []
        value = value.replace("\\", "/")
        names = [[p for p in PurePosixPath(s).parts if p.strip("/") not in ("", "..")] for s in spellings(value)]
        for start in range(len(names[0])):
            # sub-folders may be classes or splits: the end of a/1.jpg, which is not there, is not sought as b/1.jpg
            levels = self.near if start or escapes(value) else self.levels
            for (*inner, last), folders in product((parts[start:] for parts in names), levels):
                places = [folder.joinpath(*inner) for folder in folders]
                if found := [place / file for place in places if (file := self._files(place).get(last))]:
                    return found
        if "/" in value or os.path.splitext(value)[1].lower() not in IMAGE_SUFFIXES:
            return []  # a word or number may happen to be the name of some image
        return [path for name in spellings(value) if (path := self._below.get(name))][:1]

    @cached_property
    def _below(self) -> dict[str, Path | None]:
        """All images below `root` by their names, None if several have that; without those of another split."""
        found: dict[str, Path | None] = {}
        fit: dict[Path, bool] = {}  # whether a folder may have images of the table's split
        for path in images_in(self.root):
            if (folder := path.parent) not in fit:
                names = folder.parts[len(self.root.parts) :] if self.split else ()
                fit[folder] = {*map(split_in_name, names)} <= {None, self.split}
            if fit[folder]:
                found[path.name] = None if path.name in found else path
        return found

    def _files(self, folder: Path) -> dict[str, str]:
        """The images in a folder, listed once, by their names with and without suffix."""
        if folder not in self.listed:
            try:
                names = sorted(n for n in os.listdir(folder) if os.path.splitext(n)[1].lower() in IMAGE_SUFFIXES)
                names = [name for name in names if not is_hidden(name)]
            except OSError:
                names = []
            self.listed[folder] = {name.rpartition(".")[0]: name for name in reversed(names)} | {n: n for n in names}
        return self.listed[folder]


def image_column(table: Table, images: Images) -> str | None:
    """The column whose values are mostly names of images: preferably one with their suffixes, or with a usual name, as
    the number of a row or class, too, may be the name of an image without suffix.
    """
    ranks = {}
    for i, name in enumerate(table.columns):
        values = table.values(i, PEEK)
        half, small = len(values) / 2, name.lower()
        bare = sum(os.path.splitext(value)[1].lower() in IMAGE_SUFFIXES for value in values) <= half
        if bare and len(set(values)) <= half:  # classes, or degrees
            continue
        if sum(bool(images.candidates(value)) for value in values) > half:
            usual = IMAGE_COLUMNS.index(small) if small in IMAGE_COLUMNS else len(IMAGE_COLUMNS)
            ranks[name] = (bare, usual, len(set(values)) < len(values), small in NUMBERS)
    return min(ranks, key=lambda name: ranks[name], default=None)


def target_column(table: Table) -> str | None:
    """The column of classes, by its name; y beside x is a place in the image."""
    names = {name.lower(): name for name in reversed(table.columns)}
    if "x" in names:
        names.pop("y", None)
    return next((names[name] for name in TARGETS if name in names), None)


def split_column(table: Table) -> str | None:
    """The column of splits, by its name, if one of its values is a name of train, and there are others."""
    names = (name for name in table.columns if name.lower() in SPLIT_COLUMNS)
    return next((name for name in names if says_splits(table.values(table.columns.index(name)))), None)


def says_splits(words: Iterable[str]) -> bool:
    """Whether the values of a column of splits can be used: one means train, and others do not."""
    splits = {split_from_word(word) for word in {*words}}
    return "train" in splits and len(splits) > 1


def binary_columns(table: Table, but: Sequence[str | None]) -> list[str]:
    """The columns, except `but` and those of splits, whose values are yes/no, 1/0 or 1/-1. Both must occur: a constant,
    such as the number of the only annotator, is nothing to learn.
    """
    found = []
    for i, name in enumerate(table.columns):
        values = {value.lower() for value in table.values(i)}
        if name in but or name.lower() in SPLIT_COLUMNS or not values <= BINARY.keys():
            continue
        if {BINARY[value] for value in values} == {0, 1}:
            found.append(name)
    return found


def group_hint(table: Table, but: Sequence[str | None]) -> str | None:
    """A column that may group images, such as sender_id: by its name, and because its values repeat."""
    for i, name in enumerate(table.columns):
        values = table.values(i)
        if name not in but and GROUP.fullmatch(name) and 1 < len(set(values)) < len(values):
            return name
    return None
