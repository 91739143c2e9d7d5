"""Layouts of classification, faces, people and places. Nothing here needs torch."""

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from backbones.errors import UserError
from data.celeba import celeba_files
from data.files import IMAGE_SUFFIXES, images_in
from data.layouts.detection import (
    JSON_FOLDERS,
    TXT_FOLDERS,
    XML_FOLDERS,
    format_of_tool,
    has_yolo_rows,
    label_places,
)
from data.layouts.folder import Folder, Layout
from data.splits import SPLIT_NAMES, split_from_word, split_in_name, split_of_file, with_val
from data.table import PEEK, POSITIONS, SUFFIXES, Images, Table, binary_columns, image_column, read_table, target_column

# from a table and its column of images: the reason why it cannot be trained on, if any
Truth = Callable[[Table, str], str | None]
DEVKIT = "ILSVRC2012_devkit_t12"
IMAGENET = "ILSVRC2012_img_"  # the names of its archives, of which train's has an archive for each class
CLASSES = "classes.txt"  # as tasks.shards writes it
FOLDERS = 100  # most sub-folders that are searched for images
PARTS = {"images", "jpegimages", "img", "annotations", "labels", "masks"}
NO_CLASSES = PARTS.union(*SPLIT_NAMES.values())
# What to do with folders of images that have boxes in files of these suffixes.
TO_TRAIN_ON_BOXES = {
    ".xml": ", as Pascal VOC has them: to train on the boxes, put all images and .xml files into one folder",
    ".txt": ", as YOLO has them: to train on the boxes, set task=detection",
    ".json": ", as LabelMe has them: to train on the boxes, export them as COCO or YOLO",
}
LABEL_FOLDERS = tuple(dict.fromkeys((*XML_FOLDERS, *TXT_FOLDERS, *JSON_FOLDERS)))
UNSET = {"train": None, "val": None, "test": None}
EXAMPLE = "samplesubmission"  # Kaggle's table of the answers' format, whose labels are not true


@dataclass(frozen=True)
class Guess(Layout):
    """A layout that is assumed because no other of its family fits."""


class Unlabelled(UserError):
    """Images without labels."""


def classification(folder: Folder) -> Iterator[Layout]:
    """ImageNet or Stanford Dogs as published, shards, a table, or a folder of images for each class."""
    names = folder.folders.keys()
    if {"train", "val", DEVKIT} <= names:
        yield Layout("imagenet", "ImageNet (ILSVRC 2012) as published")
    elif "Images" in names and (folder.path / "train_list.mat").is_file():
        yield Layout("dogs", "Stanford Dogs as published")
    else:
        found = [*shards(folder, "shards"), *tables(folder, "csv", without_classes)]
        found += folder_per_class(folder, "folders", "class", depth=0 if found else 3)  # a table has the labels
        found = found or [Guess(**vars(layout)) for layout in tables(folder, "csv", accept_any)]
        if not found:
            refuse(folder, accept_any)
        if not found and (images := first_images(folder)):
            for place in (folder, *(folder.folders[name] for name in folder.split_folders().values())):
                plain = [n for n, sub in place.folders.items() if n.lower() in PARTS and first_images(sub, 1)]
                if len(plain) > 1:
                    hint = "data=folders data.train=. data.val=null" if place is folder else "data=folders"
                    raise UserError(f"{place.path}: if {plain[0]} and {plain[1]} are classes, set {hint}")
            raise Unlabelled(
                f"{images.path} has images without labels: put those of each class into a folder of its own, "
                "or name them and their classes in a CSV file"
            )
        yield from found


def faces(folder: Folder) -> Iterator[Layout]:
    """CelebA as published, a table, shards, or else images without labels."""
    if celeba_files(folder.path).complete:
        yield Layout("celeba", "CelebA as published")
    elif found := [*tables(folder, "faces_csv", without_attributes)] or [*shards(folder, "face_shards")]:
        yield from found
    else:
        refuse(folder, without_attributes)
        if first_images(folder):
            yield Layout("face_folder", "images without labels, to learn from a teacher")


def identities(folder: Folder) -> Iterator[Layout]:
    """A folder for each person, with or without splits; or LFW with its pairs for val, and people to train on."""
    lfw = folder.folders.get("lfw")
    training = next((f for n, f in folder.folders.items() if n.lower() in ("people", *SPLIT_NAMES["train"])), None)
    if lfw and training and has_classes(lfw) and has_classes(training) and (folder.path / "pairs.txt").is_file():
        settings = {"train": training.path.name, "val": "lfw", "pairs": "pairs.txt"}
        yield Layout("identities", f"people in {training.path.name}, LFW's pairs for val", settings)
    else:
        yield from folder_per_class(folder, "identities", "person")


def geo(folder: Folder) -> Iterator[Layout]:
    """Shards, tables of positions, or folders of photos that may have GPS in their EXIF."""
    found = [*shards(folder, "place_shards"), *tables(folder, "places", without_positions)]
    if not found:
        refuse(folder, without_positions)
        splits = {split: name for split, name in folder.split_folders().items() if first_images(folder.folders[name])}
        others = (sub for name, sub in folder.folders.items() if name not in (*splits.values(), "gallery"))
        if "train" in splits and (len(splits) > 1 or not any(map(first_images, others))):  # it may be an album
            settings = UNSET | with_val(splits)
            found = [Layout("places", f"photos with GPS in their EXIF: {described(settings)}", settings)]
        elif first_images(folder):
            found = [Layout("places", "photos with GPS in their EXIF", {"train": ".", "val": None})]
    yield from found


def described(splits: dict[str, str | None]) -> str:
    """The folder or file of each split, in words."""
    return ", ".join(split if split == name else f"{split} is {name}" for split, name in splits.items() if name)


def first_images(folder: Folder, depth: int = 2) -> Folder | None:
    """The first folder with images: this one or a sub-folder."""
    if folder.images:
        return folder
    inside = islice(folder.folders.values(), FOLDERS) if depth else ()
    return next((found for sub in inside if (found := first_images(sub, depth - 1))), None)


def has_classes(folder: Folder, least: int = 2) -> bool:
    """Whether a folder has at least `least` sub-folders with images, not all with names like train or images."""
    if {name.lower() for name in folder.folders} <= NO_CLASSES:
        return False
    found = (name for name, sub in folder.folders.items() if first_images(sub, 1))
    return len([*islice(found, least)]) == least


def folder_per_class(folder: Folder, option: str, kind: str, depth: int = 3) -> Iterator[Layout]:
    """A folder of images for each class or person, with or without splits."""
    inside, place = wrapped(folder, depth)
    splits = splits_with_classes(inside)
    description = f"a folder for each {kind}"
    plain = has_classes(inside) and not inside.images
    images, annotated = with_boxes(folder, folder.path) if "train" in splits or plain else (0, Counter[str]())
    if option != "identities" and 2 * annotated.total() > images:
        suffix = annotated.most_common(1)[0][0]
        raise UserError(
            f"{folder.path} has folders with {suffix} files of boxes beside the images{TO_TRAIN_ON_BOXES[suffix]}; "
            f"otherwise set data={option}"
        )
    if "train" in splits:
        val = next((n for n in inside.folders if n.lower() in SPLIT_NAMES["val"]), None)
        if val and "val" not in splits:
            raise UserError(f"{inside.folders[val].path} has no folder for each {kind}, as {splits['train']} has")
        named = {split: f"{place}{unwrapped(inside, name)[0]}" for split, name in with_val(splits).items()}
        settings = UNSET | named
        unused = [n for n in inside.folders if n.lower() in SPLIT_NAMES["test"] and n not in splits.values()]
        more = f", not {unused[0]}, which has none" if unused else ""
        yield Layout(option, f"{description}: {described(settings)}{more}", settings)
    elif plain:
        where = f"{description} in {place}" if place else description
        yield Layout(option, where, {"train": place.rstrip("/") or ".", "val": None})


def wrapped(folder: Folder, depth: int) -> tuple[Folder, str]:
    """The folder that has the folders of classes or splits, at most `depth` levels down, with the path to it: where one
    sub-folder alone has images, as images/ beside annotations/, they are in there.
    """
    place = ""
    for _ in range(depth):
        filled = [*islice((name for name, sub in folder.folders.items() if first_images(sub, 3)), 2)]
        if folder.images or folder.split_folders() or len(filled) != 1:
            break
        folder, place = folder.folders[filled[0]], f"{place}{filled[0]}/"
    return folder, place


def splits_with_classes(folder: Folder) -> dict[str, str]:
    """The splits that have class folders, with the names of their folders. Names with further words, such as
    training_set, count if all folders with classes have one: any of them might be a class otherwise.
    """
    found = {split: n for split, n in folder.split_folders().items() if has_classes(unwrapped(folder, n)[1], 1)}
    if found:
        return found
    names = [name for name in folder.folders if has_classes(unwrapped(folder, name)[1])]
    splits = {split: name for name in names if (split := split_in_name(name))}
    return splits if len(splits) == len(names) else {}


def unwrapped(folder: Folder, name: str) -> tuple[str, Folder]:
    """A sub-folder, or the only one in it if that has the same name, as some archives have it: path and folder."""
    sub = folder.folders[name]
    return (f"{name}/{name}", sub.folders[name]) if [*sub.folders] == [name] and not sub.images else (name, sub)


def with_boxes(folder: Folder, root: Path, depth: int = 3) -> tuple[int, Counter[str]]:
    """How many images some of the sub-folders have, and how many of them have a file of boxes of the same name, by its
    suffix: beside them, or in a parallel folder of labels.
    """
    images = {Path(name).stem for name in folder.images}
    total, annotated = len(images), Counter[str]()
    for place in label_places(root, folder.path, LABEL_FOLDERS) if images else ():
        for suffix in TO_TRAIN_ON_BOXES:
            files = [name for name in Folder(place).files(suffix) if Path(name).stem in images]
            if files and has_boxes(place, files):
                annotated[suffix] += len(files)
    for inside in islice(folder.folders.values(), 10 if depth else 0):
        more, own = with_boxes(inside, root, depth - 1)
        total, annotated = total + more, annotated + own
    return total, annotated


def has_boxes(folder: Path, names: list[str]) -> bool:
    """Whether files of one suffix are labels, not captions or metadata, which classes may have."""
    if names[0].lower().endswith(".txt"):
        return has_yolo_rows(folder)
    return names[0].lower().endswith(".xml") or format_of_tool(folder / names[0]) is not None


def shards(folder: Folder, option: str) -> Iterator[Layout]:
    """WebDataset's .tar files, if they or their folders are named after splits."""
    patterns: dict[str, list[str]] = {}
    archives = folder.files(".tar")
    found = [name for name in archives if not name.startswith(IMAGENET)]
    if found != archives and not first_images(folder):
        raise UserError(
            f"{folder.path} has ImageNet's archives, which are no shards: unpack them with python -m tasks.prepare "
            f"data=imagenet data.root={shlex.quote(str(folder.path))}"
        )
    for split, known in SPLIT_NAMES.items():
        own = [name for name in found if set(re.split(r"[^a-z0-9]+|(?=\d)", name.lower())) & set(known)]
        patterns[split] = sorted({re.sub(r"\d+", "*", name) for name in own})
    for split, name in folder.split_folders().items():
        if folder.folders[name].files(".tar"):
            patterns[split].append(f"{name}/*.tar")
    splits = {s: p[0] if len(p) == 1 else f"{{{','.join(p)}}}" for s, p in patterns.items() if p}
    if "train" in splits:
        settings = UNSET | with_val(splits)
        if not settings["val"]:
            raise UserError(f"{folder.path} has no shards for validation, only {splits['train']}: set data.val=")
        description = f"WebDataset shards: {described(settings)}"
        if option != "place_shards" and (folder.path / CLASSES).is_file():
            settings["classes"] = CLASSES
        yield Layout(option, description, settings)


def tables(folder: Folder, option: str, truth: Truth) -> Iterator[Layout]:
    """Tables, one for all splits or one for each, that name images and are fit for training according to `truth`."""
    fitting = [name for name in table_names(folder) if not problem(folder.path / name, folder.path, truth)]
    by_split = {split: tables_of(split, fitting, folder.path) for split in SPLIT_NAMES}
    named = with_val({split: found[0] for split, found in by_split.items() if found})
    choices = by_split["train"] or fitting
    if len(choices) > 1:
        raise UserError(
            f"{folder.path} has the tables {choices[0]} and {choices[1]}: choose one with data={option} data.train="
        )
    if choices:
        splits = named if by_split["train"] else {"train": choices[0]}
        settings = UNSET | splits
        yield Layout(option, f"a table: {described(settings)}", settings)


def table_names(folder: Folder) -> list[str]:
    """The tables in a folder and in its splits' folders."""
    inside = (
        (name, table) for name in folder.split_folders().values() for table in folder.folders[name].files(*SUFFIXES)
    )
    names = [*folder.files(*SUFFIXES), *(f"{name}/{table}" for name, table in inside)]
    return [name for name in names if re.sub(r"[^a-z]", "", Path(name).stem.lower()) != EXAMPLE]


def tables_of(split: str, names: list[str], root: Path) -> list[str]:
    """The tables of a split: train.csv before train_labels.csv."""
    own = [name for name in names if split_of_file(root / name, root) == split]
    exact = [name for name in own if split in map(split_from_word, (Path(name).parent.name, Path(name).stem))]
    return exact or own


def problem(path: Path, root: Path, truth: Truth) -> str | None:
    """The reason why a table does not name images or cannot be trained on, if any."""
    try:
        table = read_table(path, PEEK)
    except UserError as error:
        encoded = isinstance(error.__cause__, UnicodeDecodeError)  # Excel writes cp1252 or UTF-16
        return f"{path} is not UTF-8: save it as UTF-8" if encoded else str(error)
    images = Images(path, root)
    name = image_column(table, images)
    if name is None:
        where = f"{path}: no column names images below {path.parent}"
        return f"{where}; its columns are {table.names}{absent(table, images)}"
    return truth(table, name)


def absent(table: Table, images: Images) -> str:
    """The first image that a table names and that is not there, in words, and the one that it may mean; empty if no
    column has names with an image's suffix.
    """
    for i, name in enumerate(table.columns):
        values = table.values(i, PEEK)
        named = [v for v in values if Path(v).suffix.lower() in IMAGE_SUFFIXES and not images.candidates(v)]
        if 2 * len(named) > len(values):
            last = PurePosixPath(named[0].replace("\\", "/")).name
            same = next((p.name for p in images_in(images.root) if p.name.lower() == last.lower()), None)
            meant = f", but {same}, which differs in upper and lower case" if same and same != last else ""
            return f"; there is no {named[0]:.80}, as {name} says{meant}"
    return ""


def refuse(folder: Folder, truth: Truth) -> None:
    """Raises UserError if a folder has shards without splits, or a table that cannot be trained on."""
    if tars := folder.files(".tar"):
        raise UserError(f"{folder.path}: which of {tars[0]}, ... are for training? Set data.train= and data.val=")
    for name in table_names(folder):
        if found := problem(folder.path / name, folder.path, truth):
            raise UserError(found)


def without_classes(table: Table, images: str) -> str | None:
    """The error of a table without a column of classes."""
    return None if target_column(table) else f"{table.path} has no column that is called label, class or the like"


def without_attributes(table: Table, images: str) -> str | None:
    """The error of a table without a yes/no column."""
    if len(table.rows) == PEEK and not binary_columns(table, (images,)):
        table = read_table(table.path)  # its first rows may all say no
    if binary_columns(table, (images,)):
        return None
    return f"{table.path}: no column has attributes, which are yes and no, or 1 and 0 or -1; it has {table.names}"


def without_positions(table: Table, images: str) -> str | None:
    """The error of a table without latitude or longitude, or of a format that is not read for positions."""
    if table.path.suffix.lower() == ".jsonl":
        return f"{table.path}: positions are read from CSV, not from JSON lines"
    absent = [name for name, known in POSITIONS.items() if not {*known} & {c.lower() for c in table.columns}]
    return f"{table.path} has no column {absent[0]}; its columns are {table.names}" if absent else None


def accept_any(table: Table, images: str) -> str | None:
    """No error: `data.target` may name the column."""
    return None
