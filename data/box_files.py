"""Files that name images and give their objects: CSV with a row for each box, and Hugging Face's metadata.jsonl."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from data.annotated import Annotated, AnnotatedData, existing_path
from data.files import IMAGE_FOLDERS, find_below
from data.layouts.detection import (
    COLUMNS,
    CORNERS,
    box_csv_files,
    box_jsonl_files,
    csv_columns,
    split_row,
)
from data.layouts.folder import Folder
from data.rejects import left_out
from data.splits import split_of_file
from data.table import SPLIT_COLUMNS
from data.text import read_lines
from data.voc import images_by_stem

NAMES = ("category", "categories", "label", "labels", "class", "classes", "id", "ids")  # keys of the objects' classes


class BoxFiles(AnnotatedData):
    """The sources of splits are files, with their images in the same folder or in a folder of images."""

    def found(self, folder: Folder) -> dict[str, Path]:
        """The files of the splits in a folder."""
        raise NotImplementedError("a format defines found")

    def rows(self, path: Path) -> Iterator[tuple[str, Annotated | None]]:
        """Names of images with some of their objects; None for a row that cannot be used.

        Raises:
            UserError: the file is not of the format.
        """
        raise NotImplementedError("a format defines rows")

    def find(self) -> dict[str, str]:
        found = self.found(Folder(self.root))
        if not found:
            raise UserError(f"{self.root} has no files of boxes that are known: give data.train")
        return {split: str(path.relative_to(self.root)) for split, path in found.items()}

    def read(self, source: str) -> list[Annotated]:
        path = existing_path(self.root, source)
        images: dict[str, Annotated] = {}
        rows = list(self.rows(path))
        wrong = [name for name, row in rows if row is None]
        for name, row in ((name, row) for name, row in rows if row):
            image = images.setdefault(name, row)
            if image is not row:
                image.names += row.names
                image.boxes += row.boxes
        places, stems = self._places(path), cache(images_by_stem)
        for name, image in images.items():
            found = (find_below(place, name) or stems(place).get(name) for place in places)
            image.path = next(filter(None, found), Path())
        missing = [name for name, image in images.items() if not image.path.name]
        if images and len(missing) == len(images):
            raise UserError(f"{path} names {len(images)} images, of which none lies below {self.root}, as {missing[0]}")
        left_out(path, "rows that cannot be used", wrong, len(rows))
        left_out(path, "images that are not there", missing, len(images))
        return [image for image in images.values() if image.path.name]

    def _places(self, path: Path) -> list[Path]:
        """The folders that may have a file's images: for a split with folders, these first, and none of other splits,
        which may have images of the same names.
        """
        around = [Folder(path.parent), Folder(self.root)]
        around += [inner for folder in around for inner in folder.named(*IMAGE_FOLDERS)]
        splits = [(s, folder.folders[name].path) for folder in around for s, name in folder.split_folders().items()]
        split = split_of_file(path, self.root)
        own = [place for s, place in splits if s == split]
        others = [] if own else [place for _, place in splits]
        return list(dict.fromkeys([*own, *(folder.path for folder in around), *others]))


class BoxCsvData(BoxFiles):
    """CSV with a row for each box: the image, its class and corners in pixels, with the columns of TensorFlow's
    tutorials, or without a header as for RetinaNet: path,x1,y1,x2,y2,class, with empty corners for an image without
    objects.
    """

    def found(self, folder: Folder) -> dict[str, Path]:
        return box_csv_files(folder) or box_csv_files(folder, corners=False)

    def rows(self, path: Path) -> Iterator[tuple[str, Annotated | None]]:
        lines = read_lines(path)
        header = split_row(lines[0]) if lines else []
        columns = csv_columns(header)
        for key in ("image", "class", *CORNERS):
            if key not in columns:
                names = ", ".join(COLUMNS[key])
                need = "; corners in pixels are needed" if key in CORNERS else ""
                raise UserError(f"{path} has no column of {key} (one of {names}); it has {', '.join(header)}{need}")
        for line in lines[1:] if _is_header(header) else lines:
            if line.strip():
                yield _csv_row(split_row(line), columns, line)


def _is_header(cells: list[str]) -> bool:
    """Whether a file begins with a header."""
    known = {name for names in COLUMNS.values() for name in names}
    return any(cell.strip().lower() in known for cell in cells)


def _csv_row(cells: list[str], columns: dict[str, int], line: str) -> tuple[str, Annotated | None]:
    try:
        values = {key: cells[column].strip() for key, column in columns.items()}
        size = float(values.get("width") or 0), float(values.get("height") or 0)
        image = Annotated(Path(), size=size, split=values.get("split", ""))
        if any(values[key] for key in CORNERS):  # VinBigData has none for No finding
            image.boxes.append([float(values[key]) for key in CORNERS])
            image.names.append(values["class"])
    except (IndexError, ValueError):
        return line, None
    return (values["image"], image) if all(image.names) else (line, None)


class BoxJsonlData(BoxFiles):
    """Hugging Face's imagefolder: metadata.jsonl, whose lines have file_name and objects with bbox (left, top, width
    and height in pixels) and category.
    """

    def found(self, folder: Folder) -> dict[str, Path]:
        return box_jsonl_files(folder)

    def rows(self, path: Path) -> Iterator[tuple[str, Annotated | None]]:
        for number, line in enumerate(read_lines(path), start=1):
            if line.strip():
                try:
                    yield _jsonl_row(json.loads(line))
                except (ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError):
                    yield f"line {number}", None


def _jsonl_row(content: Any) -> tuple[str, Annotated]:
    objects = content["objects"]
    if isinstance(objects, list):  # a dictionary for each object
        objects = {key: [one[key] for one in objects] for key in (objects[0] if objects else {})}
    corners = [[float(value) for value in box] for box in objects.get("bbox", [])]
    boxes = [[x, y, x + width, y + height] for x, y, width, height in corners]
    names: list[Any] = next((objects[key] for key in NAMES if key in objects), [])
    if len(names) != len(boxes):
        raise ValueError("as many boxes as categories")
    names = [f"class{name}" if isinstance(name, int) else str(name) for name in names]
    size = float(content.get("width") or 0), float(content.get("height") or 0)
    word = next((str(content[key]) for key in SPLIT_COLUMNS if key in content), "")
    return str(content["file_name"]), Annotated(Path(), names, boxes, size=size, split=word)
