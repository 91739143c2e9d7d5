"""Layouts of detection data. The data class of an option reads a folder with the same functions as its finder here."""

import csv
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from data.files import IMAGE_FOLDERS, IMAGE_SUFFIXES, find_below, has_images
from data.layouts.folder import Folder, Layout, split_lists
from data.splits import SPLIT_NAMES, split_in_name
from data.table import IMAGE_COLUMNS, SPLIT_COLUMNS, TARGETS, delimiter_of
from data.text import read_plain_yaml

XML_FOLDERS = ("annotations", "annotation", "xml", "xmls", "labels")
TXT_FOLDERS = ("labels", "label", "annotations")
JSON_FOLDERS = ("annotations", "annotation", "labels", "json")
YOLO_ROW = re.compile(r"\s*\d+(\.0*)?(\s+[-+.\deE]+){4,}\s*")
NUMBER = re.compile(r"[-+.\deE]+")
CORNERS = ("xmin", "ymin", "xmax", "ymax")
SIDES = ({"w", "h"}, {"width", "height"})
COLUMNS = {  # of a CSV file of boxes, and their usual names
    "image": IMAGE_COLUMNS,
    "class": ("class", "label", "name", "category", *(name for name in TARGETS if name != "y")),
    "xmin": ("xmin", "x_min", "x1", "left"),
    "ymin": ("ymin", "y_min", "y1", "top"),
    "xmax": ("xmax", "x_max", "x2", "right"),
    "ymax": ("ymax", "y_max", "y2", "bottom"),
    "width": ("width", "image_width", "img_width"),
    "height": ("height", "image_height", "img_height"),
    "split": SPLIT_COLUMNS,
}
IMAGE_NAME = re.compile(rb'"(?:file_name|coco_url)"\s*:\s*("(?:[^"\\]|\\.)+")')
LISTS = Path("ImageSets") / "Main"
PEEK = 1 << 18  # bytes that recognition reads at both ends of a JSON file


def label_places(root: Path, images: Path, names: Sequence[str]) -> list[Path]:
    """The folders that may have the labels of a folder of images below `root`: a parallel one, such as a/labels/train
    for a/images/train, a sub-folder, or the folder itself.
    """
    root = root if images.is_relative_to(root) else Path(images.anchor)
    parts = images.relative_to(root).parts
    found = []
    for i in reversed(range(len(parts))):
        if parts[i].lower() in IMAGE_FOLDERS:
            beside = Folder(root.joinpath(*parts[:i])).named(*names)
            inside = [name for name in names if name.startswith("xml")]  # Oxford-IIIT Pets: annotations/xmls
            beside += [inner for folder in beside for inner in folder.named(*inside)]
            found = [folder.path.joinpath(*parts[i + 1 :]) for folder in beside]
            break
    found += [folder.path for folder in Folder(images).named(*names)]
    return [*(folder for folder in found if folder.is_dir()), images]


def image_folder(folder: Folder) -> Folder | None:
    """The folder that has a folder's images: a sub-folder of a usual name, or the folder itself."""
    return next((f for f in (*folder.named(*IMAGE_FOLDERS), folder) if f.images), None)


def arranged(folder: Folder, labelled: Callable[[Path], bool]) -> dict[str, Path]:
    """The folder of images of each split: images/train, train/images or train/; without splits, all images are train's.
    Empty if train's images are not `labelled`.
    """
    inner = [
        {s: images.folders[n] for s, n in images.split_folders().items()} for images in folder.named(*IMAGE_FOLDERS)
    ]
    outer = {s: image_folder(folder.folders[n]) for s, n in folder.split_folders().items()}
    every: list[Mapping[str, Folder | None]] = [*inner, outer, {"train": image_folder(folder)}]
    for splits in every:
        found = {s: f.path for s, f in splits.items() if f and f.images}
        if "train" in found and labelled(found["train"]):
            return {s: path for s, path in found.items() if s != "test" or labelled(path)}
    return {}


def voc_lists(folder: Folder) -> dict[str, str]:
    """The lists of the splits in ImageSets/Main, if there are any."""
    lists = folder.path / LISTS
    splits = split_lists(name[:-4] for name in Folder(lists).files(".txt")) if lists.is_dir() else {}
    return splits if "train" in splits else {}


def voc_splits(folder: Folder) -> dict[str, Path]:
    """The folder of images of each split, if train's have .xml files."""
    return arranged(
        folder, lambda images: any(Folder(p).files(".xml") for p in label_places(folder.path, images, XML_FOLDERS))
    )


def voc(folder: Folder) -> Iterator[Layout]:
    """Pascal VOC's .xml files in Annotations/, or beside their images, with lists, with folders of splits, or without
    splits.
    """
    if voc_splits(folder):
        yield Layout("voc", "Pascal VOC")


def yolo_yaml(folder: Folder, name: str | None = None) -> tuple[dict[str, Any], Path | None]:
    """The content and path of YOLO's data.yaml in a folder; an empty dictionary and None if there is none.

    Raises:
        UserError: there are several, or the one called `name` is not such a file.
    """
    names = [name] if name else folder.files(".yaml", ".yml")
    contents = {folder.path / n: read_plain_yaml(folder.path / n) for n in names}
    found = {path: content for path, content in contents.items() if isinstance(content, dict) and "names" in content}
    if len(found) > 1:
        first, second = (path.name for path in list(found)[:2])
        both = f"{first} and {second}, both with class names"
        raise UserError(f"{folder.path} has {both}: choose one with data=yolo data.yaml=")
    if name and not found:
        raise UserError(f"{folder.path / name} does not have the class names, as YOLO's data.yaml does")
    return next(((content, path) for path, content in found.items()), ({}, None))


def yolo_splits(folder: Folder, content: dict[str, Any]) -> dict[str, tuple[Path, ...]]:
    """Folders or lists of the images of each split: those that data.yaml names, if they exist below `folder` (often
    they do not); otherwise the folders that are found.
    """

    def labelled(images: Path) -> bool:
        return any(map(has_yolo_rows, label_places(folder.path, images, TXT_FOLDERS)))

    splits = {split: _existing(folder, content, names) for split, names in yolo_names(folder, content).items()}
    tests = splits.pop("test", ())
    places = {path: image_folder(Folder(path)) or Folder(path) for path in tests if path.is_dir()}
    splits["test"] = tuple(path for path in tests if path not in places or labelled(places[path].path))
    found = arranged(folder, labelled) or _nested(folder, labelled)
    present: dict[str, tuple[Path, ...]] = {split: (path,) for split, path in found.items()}
    if not splits.get("train"):
        return present
    # some files name the same images for train and val
    return present | {s: paths for s, paths in splits.items() if paths and (s == "train" or paths != splits["train"])}


def _nested(folder: Folder, labelled: Callable[[Path], bool]) -> dict[str, Path]:
    """The folder whose sub-folders, such as scenes or batches, all have `labelled` images: train's."""
    for outer in (*folder.named(*IMAGE_FOLDERS), folder):
        inner = [sub for sub in islice(outer.folders.values(), 10) if sub.images]
        if inner and not outer.split_folders() and all(labelled(sub.path) for sub in inner):
            return {"train": outer.path}
    return {}


def yolo_names(folder: Folder, content: dict[str, Any]) -> dict[str, list[str]]:
    """The folders or lists that data.yaml names for each split, existing or not; without one, the lists of images."""
    named: dict[str, list[str]] = {}
    for split, names in SPLIT_NAMES.items():
        paths: Any = next((content[name] for name in names if content.get(name)), [])
        named[split] = [str(path) for path in (paths if isinstance(paths, list) else [paths])]
    if not any(named.values()):
        lists = {name[:-4].lower(): name for name in folder.files(".txt", complete=True)}
        fitting = {s: [lists[n] for n in names if n in lists] for s, names in SPLIT_NAMES.items()}
        named = {s: [n for n in names if _lists_images(folder.path / n)][:1] for s, names in fitting.items()}
    return {split: paths for split, paths in named.items() if paths}


def _existing(folder: Folder, content: dict[str, Any], names: list[str]) -> tuple[Path, ...]:
    """The paths of data.yaml that exist below a folder, and are lists or have images."""
    base = str(content.get("path") or "")
    found = (find_below(folder.path, f"{base}/{name}") or find_below(folder.path, name) for name in names)
    return tuple(dict.fromkeys(path for path in found if path and (path.is_file() or has_images(path))))


def has_yolo_rows(labels: Path) -> bool:
    """Whether a folder has YOLO's files of labels, most of which may be empty."""
    lines = (_first_line(labels / name) for name in Folder(labels).files(".txt"))
    return any(YOLO_ROW.fullmatch(line) for line in islice(filter(str.strip, lines), 100))


def _first_line(path: Path) -> str:
    """The first line of a file, empty if that cannot be read, as of a broken link."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return file.readline(4096)
    except OSError:
        return ""


def format_of_tool(path: Path) -> str | None:
    """The labelling tool whose own format a file has, which is not read, if any."""
    try:
        with path.open("rb") as file:
            start = file.read(PEEK)
    except OSError:  # a broken link
        return None
    if path.suffix.lower() == ".xml":
        return "CVAT" if b"<annotations>" in start else None
    return "LabelMe" if b'"shapes"' in start and b'"imagePath"' in start else None


def _lists_images(path: Path) -> bool:
    """Whether a file is a list of images."""
    if not path.is_file():
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return Path(file.readline(4096).strip()).suffix.lower() in IMAGE_SUFFIXES


def yolo(folder: Folder) -> Iterator[Layout]:
    """YOLO's txt files, in labels/ or beside their images, with data.yaml or without."""
    if yolo_splits(folder, yolo_yaml(folder)[0]):
        yield Layout("yolo", "YOLO")


def coco_files(folder: Folder) -> dict[str, str]:
    """The settings train_json, train_images and so on of data=coco for the COCO files in a folder or its sub-folders.
    Without a file for val, it has to be drawn from train; a file whose images are not found gets no folder of images.

    Raises:
        UserError: a split has several files.
    """
    settings: dict[str, str] = {}
    files = split_files(folder, (".json",), _is_coco, "data=coco data.{}_json")
    for split, path in files.items():
        settings |= {f"{split}_json": path.relative_to(folder.path).as_posix()}
        if images := (_folder_of_splits(folder) if len(files) == 1 else None) or _images_of(folder, path, split):
            settings |= {f"{split}_images": images.relative_to(folder.path).as_posix()}
    return settings if {"train_json", "train_images"} <= settings.keys() else {}


def split_files(
    folder: Folder, suffixes: tuple[str, ...], fits: Callable[[Path], bool], setting: str
) -> dict[str, Path]:
    """The file of annotations of each split: in the split's folder, or in `folder` or its annotations/ with the split
    in its name. A single file is train's; empty if there is none for train. `setting` is for errors.

    Raises:
        UserError: a split has several files.
    """
    splits = {folder.path / name: split for split, name in folder.split_folders().items()}
    splits |= {inner.path: s for place, s in splits.items() for inner in Folder(place).named(*JSON_FOLDERS)}
    found: dict[str, list[Path]] = {}
    for place in (folder.path, *(f.path for f in folder.named(*JSON_FOLDERS)), *splits):
        for path in (place / name for name in Folder(place).files(*suffixes)):
            if fits(path):
                found.setdefault(splits.get(place) or split_in_name(path.stem) or "all", []).append(path)
    if "train" in found:
        return {s: _only(s, files, setting.format(s)) for s, files in found.items() if s != "all"}
    return {"train": _only("train", found["all"], setting.format("train"))} if list(found) == ["all"] else {}


def _is_coco(path: Path) -> bool:
    """Whether both ends of a JSON file look like COCO's; it need not have boxes, as image_info_* has none."""
    with path.open("rb") as file:
        text = file.read(PEEK)
        file.seek(max(len(text), os.fstat(file.fileno()).st_size - PEEK))
        text += file.read(PEEK)
    known = ({"images", "categories", name} for name in ("file_name", "coco_url"))  # LVIS has addresses only
    filled = {"annotations", "image_id", "category_id"}  # which may take both ends of a large file
    return any(all(f'"{key}"'.encode() in text for key in keys) for keys in (*known, filled))


def _only(split: str, files: list[Path], setting: str) -> Path:
    """The only file, or the only one named instances*, as COCO names its boxes."""
    wanted = [path for path in files if path.name.startswith("instances")] or files
    if len(wanted) > 1:
        names = " and ".join(path.name for path in wanted[:2])
        raise UserError(f"{files[0].parent} has {names}, both for {split}: choose one with {setting}=")
    return wanted[0]


def _folder_of_splits(folder: Folder) -> Path | None:
    """The folder whose sub-folders, named after splits, have the images of a single file."""
    for outer in (*folder.named(*IMAGE_FOLDERS), folder):
        if not outer.images and sum(bool(image_folder(outer.folders[n])) for n in outer.split_folders().values()) > 1:
            return outer.path
    return None


def _images_of(folder: Folder, path: Path, split: str) -> Path | None:
    """The folder that has the longest end of the first image's path in a COCO file; otherwise the first place with any
    images.
    """
    name = _first_image(path)
    own = folder.named(*SPLIT_NAMES.get(split, ()), path.stem)
    around = [image_folder(Folder(path.parent)), *own, *map(image_folder, own)]
    for images in folder.named(*IMAGE_FOLDERS):
        around += [*images.named(*SPLIT_NAMES.get(split, ())), images]
    places = [f for f in (*around, folder) if f]
    found = {f.path: image for f in places if name and (image := find_below(f.path, name))}
    if found:
        return max(found, key=lambda place: len(found[place].relative_to(place).parts))
    return next((f.path for f in places if f.images), None)


def _first_image(path: Path) -> str:
    """The first image's path in a COCO file; empty if that cannot be read."""
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        match = IMAGE_NAME.search(content)
        try:
            return str(json.loads(match[1])) if match else ""
        except ValueError:  # the reader says what is wrong with it
            return ""


def coco(folder: Folder) -> Iterator[Layout]:
    """COCO's JSON files, wherever their images are."""
    if coco_files(folder):
        yield Layout("coco", "COCO")


def csv_columns(header: Sequence[str]) -> dict[str, int]:
    """The indices of the columns in a CSV file of boxes with this `header`, by the keys of COLUMNS; without a header,
    in the order of RetinaNet's files, which are recognised by their numeric columns.
    """
    words = [word.strip().lower() for word in header]
    found = {key: next((words.index(n) for n in names if n in words), None) for key, names in COLUMNS.items()}
    columns = {key: column for key, column in found.items() if column is not None}
    if not columns and len(words) == 6 and all(NUMBER.fullmatch(word or "0") for word in words[1:5]):
        return {key: i for i, key in enumerate(("image", *CORNERS, "class"))}
    return columns


def split_row(line: str) -> list[str]:
    """The cells of a line of a CSV file, separated by commas, semicolons or tabs, whichever it has most of."""
    return next(csv.reader([line], delimiter=delimiter_of(line)), [])


def _has_corners(path: Path) -> bool:
    """Whether a CSV file has boxes, perhaps with a column missing."""
    columns = csv_columns(_header(path))
    return len(columns.keys() & {*CORNERS}) >= 2 and len(columns.keys() & {"image", "class", *CORNERS}) >= 4


def _has_sides(path: Path) -> bool:
    """Whether a CSV file has boxes with a width and a height, which are not read."""
    names = {name.strip().lower() for name in _header(path)}
    return "image" in csv_columns(_header(path)) and {"x", "y"} <= names and any(sides <= names for sides in SIDES)


def _header(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return split_row(file.readline(4096))


def box_csv_files(folder: Folder, corners: bool = True) -> dict[str, Path]:
    """The files of boxes with corners, or of those without, of which the reader says what they need."""
    return split_files(folder, (".csv", ".tsv"), _has_corners if corners else _has_sides, "data=box_csv data.{}")


def box_csv(folder: Folder, corners: bool = True) -> Iterator[Layout]:
    """CSV files with a row for each box."""
    if box_csv_files(folder, corners):
        yield Layout("box_csv", "CSV files of boxes")


def _is_box_jsonl(path: Path) -> bool:
    with path.open("rb") as file:
        return b'"objects"' in file.readline(PEEK)


def box_jsonl_files(folder: Folder) -> dict[str, Path]:
    return split_files(folder, (".jsonl",), _is_box_jsonl, "data=box_jsonl data.{}")


def box_jsonl(folder: Folder) -> Iterator[Layout]:
    """Hugging Face's imagefolder with boxes in metadata.jsonl."""
    if box_jsonl_files(folder):
        yield Layout("box_jsonl", "Hugging Face imagefolder")
