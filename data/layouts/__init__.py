"""Recognises the layout of a data set in a folder, so that `data.root` alone is enough. Nothing here needs torch.

A layout is an option of conf/data with settings. Recognition reads two levels of folders and a sample of their files,
so that it takes seconds for a data set of ImageNet's size.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from backbones.errors import UserError
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


class Ambiguous(UserError):
    """Several layouts fit a folder."""


def recognize(root: Path, family: str) -> Layout:
    """The layout of the data in `root`, of those that a family of conf/data reads.

    Raises:
        UserError: there is no such folder, or no layout fits; Ambiguous if several do.
    """
    if not root.is_dir():
        raise UserError(f"data.root: there is no folder {root}")
    folder = Folder(root)
    found = {layout.option: layout for find in reversed(FAMILIES.get(family, ())) for layout in find(folder)}
    if not found and family == "_detection":  # only then: images often lie beside the .tar that they came in
        found = {layout.option: layout for layout in images.shards(folder, "box_shards")}
    if len(found) > 1:
        ways = " or ".join(f"data={layout.option} ({layout.told})" for layout in reversed(found.values()))
        raise Ambiguous(f"{root} can be read in several ways: choose {ways}")
    if not found:
        raise UserError(f"{root}: {seen(folder)}; its layout is not known: choose one with data=")
    return next(iter(found.values()))


LABELS = (".xml", ".txt", ".json", ".jsonl", ".csv")


def seen(folder: Folder) -> str:
    """The content of a folder, two levels deep, in words for an error."""
    folders = [folder, *folder.folders.values()]
    folders += [inner for outer in folders[1:] for inner in outer.folders.values()]
    images = sum(len(f.images) for f in folders)
    labels = Counter(suffix for f in folders for suffix in LABELS for _ in f.files(suffix))
    said = ", ".join(f"{count} {suffix}" for suffix, count in labels.items())
    if not images:
        return f"it has no images{f' but {said} files' if said else ''}"
    names = f" in {', '.join(list(folder.folders)[:5])}" if folder.folders else ""
    return f"it has {images} images{names}, {f'with {said} files' if said else 'but no files of labels'}"
