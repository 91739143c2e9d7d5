"""Pascal VOC's .xml annotations: in Annotations/ and JPEGImages/ with lists of splits in ImageSets/Main, in folders of
splits, or beside their images.
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

from backbones.errors import UserError
from backbones.files import check_regular
from data.annotated import Annotated, AnnotatedData
from data.files import IMAGE_FOLDERS, IMAGE_SUFFIXES, find_below, is_hidden, spellings
from data.layouts.detection import (
    LISTS,
    XML_FOLDERS,
    image_folder,
    label_places,
    voc_lists,
    voc_splits,
)
from data.layouts.folder import Folder
from data.rejects import left_out
from data.text import read_lines

UNREADABLE = (OSError, ElementTree.ParseError, TypeError, ValueError, LookupError)  # LookupError: an unknown encoding


def images_by_stem(folder: Path) -> dict[str, Path]:
    """The images in a folder, by their names without suffix."""
    found = sorted((p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES), reverse=True)
    return {path.stem: path for path in found if not is_hidden(path.name)}


def listed(line: str, files: Mapping[str, Path]) -> str:
    """The name in `files` that a line of a list refers to: the whole line, since names may have spaces, or the part
    before a second column, as in lists of a single class; each may also be a path of an image.
    """
    words = [line.strip(), line.rsplit(maxsplit=1)[0].strip(), line.split()[0]]
    paths = [PurePosixPath(word.replace("\\", "/")) for word in words]
    words += [path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name for path in paths]
    return next((s for word in words for s in spellings(word) if s in files), words[2])


def read_voc(root: Path, images: Path, lines: list[str] | None = None) -> list[Annotated]:
    """The images in a folder below `root` that have an .xml file of the same name, or are named in one; all of them,
    or those that the `lines` of a list name without suffix.

    Annotations without an image, and those that cannot be read, are left out and counted.
    """
    places = label_places(root, images, XML_FOLDERS)
    files = {p.stem: p for folder in places for p in folder.glob("*.[xX][mM][lL]") if not is_hidden(p.name)}
    known = images_by_stem(images)
    missing, broken, alone, found = [], [], [], []
    wanted = sorted(files) if lines is None else [listed(line, files) for line in lines]
    for stem in wanted:
        if stem not in files:
            missing.append(f"{stem}.xml")
            continue
        try:
            check_regular(files[stem])
            tree = ElementTree.parse(files[stem])
            image = _annotated(tree)
        except UNREADABLE as error:
            broken.append(f"{files[stem]}: {error}")
            continue
        name = tree.findtext("filename") or ""
        own = next((known[spelled] for spelled in spellings(stem) if spelled in known), None)
        path = own or find_below(images, name) or find_below(root, name)
        if path is None or path.suffix.lower() not in IMAGE_SUFFIXES:
            alone.append(files[stem].name)
            continue
        image.path = path
        found.append(image)
    used = {image.path for image in found}
    extra = [path.name for path in known.values() if path not in used] if lines is None else []
    left_out(images, "names without an .xml file", missing, len(wanted))
    left_out(images, ".xml files that cannot be read", broken, len(wanted))
    left_out(images, ".xml files without an image", alone, len(wanted))
    left_out(images, "images without an .xml file", extra, len(known))
    return found


def _annotated(tree: Any) -> Annotated:
    """The objects of an .xml file, and the annotated size."""
    size = float(tree.findtext("size/width") or 0), float(tree.findtext("size/height") or 0)
    image = Annotated(Path(), size=size)
    for node in tree.iter("object"):
        left, top, right, bottom = (
            float(node.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax")
        )
        if not (name := node.findtext("name", "").strip()):
            raise ValueError("an object without a name")
        image.names.append(name)
        image.boxes.append([left - 1, top - 1, right, bottom])  # VOC counts pixels from 1 and includes the last one
        image.difficult.append(node.findtext("difficult", "0").strip() == "1")
    return image


class VocData(AnnotatedData):
    """Pascal VOC; the sources of splits are lists in ImageSets/Main, else folders of images."""

    least = 1.0  # the side, in pixels, of a box whose corners are equal

    def find(self) -> dict[str, str]:
        folder = Folder(self.root)
        found = voc_lists(folder) or {s: str(p.relative_to(self.root)) for s, p in voc_splits(folder).items()}
        if not found:
            raise UserError(f"{self.root} has no images with .xml files, as Pascal VOC has them")
        return found

    def read(self, source: str) -> list[Annotated]:
        listing = self.root / LISTS / f"{source}.txt"
        folder = Folder(self.root)
        if listing.is_file():
            images = next(iter(folder.named(*IMAGE_FOLDERS)), folder).path
            return read_voc(self.root, images, [line for line in read_lines(listing) if line.strip()])
        if not (self.root / source).is_dir():
            raise UserError(f"there is no list {listing}, nor a folder {self.root / source}")
        return read_voc(self.root, (image_folder(Folder(self.root / source)) or folder).path)
