"""Removes photos from a gallery: from index, positions, paths and embeddings, in one atomic step on disk."""

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backbones.errors import UserError
from backbones.files import folder_lock
from data.geo.s2 import Bools
from data.text import read_names
from tasks.gallery import blocks
from tasks.gallery.embed import Embeddings, fingerprint
from tasks.gallery.gallery import Gallery, GalleryInfo, Part, add_vectors, commit, drop_finished
from tasks.gallery.index import lists_of, read_index

log = logging.getLogger(__name__)


def remove_from_gallery(folder: Path, checkpoint: dict[str, Any], source: str | None) -> None:
    """Removes the photos that `source` names: a photo, a folder, a glob, or a .txt file that lists photos. They need
    not be on disk any more. A killed removal leaves the gallery as it was.

    Raises:
        UserError: there is no gallery of this model, it lacks a photo that is named, it would be left empty, or photos
            are being added to it.
    """
    model = fingerprint(checkpoint)
    if not source:
        raise UserError("mode=remove needs source=<a photo, a folder, a quoted glob, or a .txt file that lists photos>")
    GalleryInfo.read(folder, model)
    with folder_lock(folder):
        info = GalleryInfo.read(folder, model)
        drop_finished(folder, info)
        if (claim := folder / "building.json").exists():
            embeddings = folder / "embeddings" / str(len(info.parts))
            raise UserError(f"{folder} holds an unfinished mode=add: finish it, or delete {claim} and {embeddings}")
        for left in folder.rglob(".*.part"):  # of killed processes: they may hold what is removed
            left.unlink(missing_ok=True)
        gallery = Gallery(folder, model)
        kept = np.ones(len(gallery), np.bool_)
        kept[named(source, gallery)] = False
        if not kept.any():
            raise UserError(f"source={source} names all photos of the gallery {folder}; delete the folder instead")
        log.info("%s: removing %d of %d photos", folder, len(kept) - kept.sum(), len(kept))
        _shrink(folder, info, gallery, kept)


def named(source: str, gallery: Gallery) -> list[int]:
    """The rows of the photos that `source` names.

    Raises:
        UserError: there is none, or a listed photo is not in the gallery.
    """
    if source.endswith(".txt"):
        return _listed(Path(source), gallery)
    names = {os.path.abspath(source), os.path.realpath(source)}  # a gallery's paths have symbolic links resolved
    if not names.isdisjoint(gallery.paths):
        return [row for row, path in enumerate(gallery.paths) if path in names]
    pattern = re.compile("|".join(map(_pattern, names)))
    rows = [row for row, path in enumerate(gallery.paths) if pattern.fullmatch(path)]
    if not rows:
        raise UserError(
            f"source={source}: the gallery {gallery.folder} has no photo of that name; give a photo, a folder, "
            "a quoted glob, or a .txt file that lists photos"
        )
    return rows


def _listed(file: Path, gallery: Gallery) -> list[int]:
    """The rows of the photos in a list, whose paths are relative to its folder."""
    lines, known = [line.strip() for line in read_names(file) if line.strip()], set(gallery.paths)
    wanted, missing = set(), []
    for line in lines:
        name = os.path.abspath(file.parent / line)
        names = {name} if "\0" in name else {name, os.path.realpath(name)}
        wanted |= names & known
        if names.isdisjoint(known):
            missing.append(line)
    if missing or not lines:
        example = f", for example {missing[0]!r}" if missing else ""
        raise UserError(
            f"source={file}: {len(missing)} of {len(lines)} photos are not in the gallery {gallery.folder}{example}; "
            "none was removed"
        )
    return [row for row, path in enumerate(gallery.paths) if path in wanted]


def _pattern(name: str) -> str:
    """A regular expression of the paths that a glob names, or of those in a folder."""
    escaped = re.escape(name)
    if "*" not in name and "?" not in name:
        return f"{escaped}/.*"
    return escaped.replace(r"\*\*/", "(?:.*/)?").replace(r"\*\*", ".*").replace(r"\*", "[^/]*").replace(r"\?", "[^/]")


def _shrink(folder: Path, info: GalleryInfo, gallery: Gallery, kept: Bools) -> None:
    """Writes the next generation, with only the `kept` photos (N,)."""
    generation = len(info.parts) + 1
    stored = _without(folder, info, kept, str(generation))
    before, target = (folder / f"index-{number}.faiss" for number in (generation - 1, generation))
    if lists_of(before).exists():
        blocks.merge(folder / blocks.TRAINED, [before], target, kept)
    else:  # all kinds of index can be filled again in memory; a graph cannot remove vectors
        index = read_index(before, mapped=False)
        index.reset()
        add_vectors(index, stored, target)
    paths = [path for path, stays in zip(gallery.paths, kept, strict=True) if stays]
    commit(folder, info, Part(str(len(info.parts)), 0, ""), gallery.positions[kept], paths)


def _without(folder: Path, info: GalleryInfo, kept: Bools, mark: str) -> Sequence[Embeddings]:
    """The remaining embeddings of each part; shards that lose some are written with a `mark`, and `commit` puts them in
    place. The digest of a part that loses photos is cleared, so that it can be added again.
    """
    parts = {
        number: Embeddings(folder / "embeddings" / str(number), part.photos, info.shard_size)
        for number, part in enumerate(info.parts)
        if part.photos
    }
    whole = all(found.dim == info.dim for found in parts.values())
    if not whole or sum(len(found.rows) for found in parts.values()) != len(kept):
        raise UserError(f"the gallery {folder} is damaged: its embeddings are of other photos; build it again")
    first = 0
    for number, found in parts.items():
        lost = found.rows[~kept[first : (first := first + len(found.rows))]]
        found.remove(lost, mark)
        if len(lost):
            info.parts[number].digest = ""
        if not len(found.rows):
            info.parts[number].photos = 0
    return [found for found in parts.values() if len(found.rows)]
