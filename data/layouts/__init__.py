"""Recognises the layout of a data set in a folder, so that `data.root` alone is enough. Nothing here needs torch.

A layout is an option of conf/data with settings. Recognition reads two levels of folders and a sample of their files,
so that it takes seconds for a data set of ImageNet's size.
"""

import shlex
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from backbones.errors import UserError
from data.files import UNREAD_SUFFIXES
from data.layouts import detection, images
from data.layouts.folder import Folder, Layout

# Layout finders of each family: the options in conf/data that share a file of settings, such as _detection.yaml.
FAMILIES: dict[str, tuple[Callable[[Folder], Iterator[Layout]], ...]] = {
    "_detection": (detection.coco, detection.voc, detection.yolo, detection.box_csv, detection.box_jsonl),
    "_classification": (images.classification,),
    "_faces": (images.faces,),
    "_identities": (images.identities,),
    "_geo": (images.geo,),
}

# What to give where no layout fits a folder of images, by family; the other families take any images.
WANTED = {
    "_detection": "boxes are read from COCO JSON, Pascal VOC .xml, YOLO .txt or a CSV file with a row per box: "
    "export your labels as one of these",
    "_identities": "give a folder of images for each person",
}
PACKED = (".zip", ".tar", ".tar.gz", ".tgz", ".parquet")
FEW = 10  # files of labels in a folder, and sub-folders, that are looked at where no layout fits
LABELS = (".xml", ".txt", ".json", ".jsonl", ".csv")


class Ambiguous(UserError):
    """Several layouts fit a folder."""


class Unknown(UserError):
    """No layout fits a folder of images, which `seen` describes."""

    def __init__(self, seen: str, wanted: str) -> None:
        super().__init__(f"{seen}; {wanted}, or choose the format with data=")
        self.seen = seen


def recognize(root: Path, family: str) -> Layout:
    """The layout of the data in `root`, of those that a family of conf/data reads.

    Raises:
        UserError: there is no such folder, or it has no images; Unknown if no layout fits; Ambiguous if several do.
    """
    if root.is_file():
        raise UserError(f"data.root={root} is a file: give a folder; if it is an archive, unpack it first")
    if not root.is_dir():
        raise UserError(f"data.root: there is no folder {root}")
    folder = Folder(root)
    found = {layout.option: layout for find in reversed(FAMILIES.get(family, ())) for layout in find(folder)}
    if not found and family == "_detection":  # only then: images often lie beside the .tar that they came in
        others = (*images.shards(folder, "box_shards"), *detection.box_csv(folder, corners=False))
        found = {layout.option: layout for layout in others}
    if len(found) > 1:
        ways = " or ".join(f"data={layout.option} ({layout.description})" for layout in reversed(found.values()))
        raise Ambiguous(f"{root} can be read in several ways: choose {ways}")
    if not found and (inner := below(folder, family)):
        raise UserError(f"{root} has its data further down: give data.root={' or data.root='.join(inner[:3])}")
    if not found:
        raise refusal(folder, family)
    return next(iter(found.values()))


def below(folder: Folder, family: str, depth: int = 3) -> list[str]:
    """The sub-folders, at most `depth` levels down, that have data of boxes, as in archives: quoted for a shell."""
    if family != "_detection" or not depth:
        return []
    found = []
    for inner in islice(folder.folders.values(), FEW):
        try:
            fits = any(True for find in FAMILIES[family] for _ in find(inner))
        except UserError:  # its error is raised when that folder is given
            fits = True
        if inner.images and not fits:  # no advice that leaves out images
            return []
        found += [shlex.quote(str(inner.path))] if fits else below(inner, family, depth - 1)
    return found


def refusal(folder: Folder, family: str) -> UserError:
    """The error of a folder without a known layout: what is in it, two levels deep, and what to give."""
    folders = [folder, *folder.folders.values()]
    folders += [inner for outer in folders[1:] for inner in outer.folders.values()]
    images = sum(len(f.images) for f in folders)
    labels, unread = (
        ", ".join(f"{count} {suffix}" for suffix in suffixes if (count := sum(len(f.files(suffix)) for f in folders)))
        for suffixes in (LABELS, UNREAD_SUFFIXES)
    )
    with_labels = f"{labels} files" if labels else "no files of labels"
    tools = (detection.format_of_tool(f.path / name) for f in folders for name in f.files(".xml", ".json")[:FEW])
    if images and family == "_detection" and (tool := next(filter(None, tools), None)):
        return UserError(f"{folder.path}: {tool}'s own format is not read: export the labels as COCO or YOLO")
    if images:
        names = f" in {', '.join(list(folder.folders)[:5])}" if folder.folders else ""
        seen = f"{folder.path}: it has {images} images{names}, {'with' if labels else 'but'} {with_labels}"
        return Unknown(seen, WANTED.get(family, "its layout is not known"))
    if unread:
        return UserError(f"{folder.path}: it has {unread} files, which cannot be read: convert them to JPEG")
    packed = [name for f in folders for name in f.files(*PACKED)]
    if packed and not labels:
        how = "export their images as files" if packed[0].lower().endswith(".parquet") else "unpack them"
        return UserError(f"{folder.path}: it has no images but {len(packed)} files such as {packed[0]}: {how}")
    but = f" but {with_labels}" if labels else ""
    return UserError(f"{folder.path}: it has no images{but}; give the folder that contains the images and their labels")
