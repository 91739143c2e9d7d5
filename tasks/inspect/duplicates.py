"""Images that are the same, and images that are nearly the same."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tasks.inspect.contents import Contents
from tasks.inspect.files import END, THUMB, FileInfo, thumbs
from tasks.inspect.findings import Example, Finding, finding

BITS = 6  # bits, of 64, in which the difference hashes of similar images may differ
ALIKE = 0.985  # least correlation of their thumbnails
FLAT = 6.0  # grey levels: thumbnails of a smaller standard deviation are not compared
TURN = 256  # hashes that are compared with all others at a time


def findings(contents: Contents, infos: Sequence[FileInfo]) -> Iterator[Finding]:
    paths, split = contents.paths, contents.split.tolist()
    listed = Counter(zip(split, paths, strict=True))
    again = [Example(path, f"{n} times in {contents.splits[s]}") for (s, path), n in listed.items() if n > 1]
    yield from finding("listed_twice", "images that a split lists more than once", again, "list each once")

    across: list[Example] = []
    within: list[Example] = []
    differing: list[Example] = []
    first = {path: i for i, path in reversed(list(enumerate(paths)))}
    once = [i for i, path in enumerate(paths) if first[path] == i or split[first[path]] != split[i]]
    for rows in copies(paths, infos, once):
        where = sorted({split[i] for i in rows})
        words = f"{len(rows)} copies in {' and '.join(contents.splits[s] for s in where)}"
        example = Example(paths[rows[-1]], words, other=paths[rows[0]])
        (across if len(where) > 1 else within).append(example)
        if contents.boxes is None and len({tuple(contents.label[contents.labels_of(i)]) for i in rows}) > 1:
            differing.append(Example(example.path, _labels(contents, rows), other=example.other))
    hint = "keep each in one split, or the metrics are measured on images that were trained on"
    yield from finding("two_splits", "images that are in two splits", across, hint)
    yield from finding("differing", "images with copies of another label", differing, "decide which label is right")
    yield from finding("copies", "images with copies in the same split", within, "keep one of each", False)
    alike = [
        Example(paths[i], f"{contents.splits[split[i]]}, like one of {contents.splits[split[j]]}", other=paths[j])
        for i, j in near(contents.split, infos)
        if infos[i].digest != infos[j].digest
    ]
    hint = "keep frames of one video, or photos of one scene, in one split, or the metrics are too good"
    yield from finding("near", "images that are nearly the same as one in another split", alike, hint)


def _labels(contents: Contents, rows: Sequence[int]) -> str:
    given = [" and ".join(contents.names[k] for k in contents.label[contents.labels_of(i)]) or "none" for i in rows]
    return " against ".join(dict.fromkeys(given))


def copies(paths: Sequence[Path], infos: Sequence[FileInfo], candidates: Sequence[int]) -> list[list[int]]:
    """Groups of candidates with the same content."""
    groups: dict[tuple[int, bytes], list[int]] = {}
    for i in candidates:
        if infos[i].digest and not infos[i].problem:
            groups.setdefault((infos[i].length, infos[i].digest), []).append(i)
    found = []
    for (size, _), rows in groups.items():
        if len(rows) < 2:
            continue
        if size <= 2 * END:
            found.append(rows)
            continue
        whole: dict[bytes, list[int]] = {}
        for i in rows:
            with paths[i].open("rb") as file:
                whole.setdefault(hashlib.file_digest(file, "sha256").digest(), []).append(i)
        found += [own for own in whole.values() if len(own) > 1]
    return found


def difference_hashes(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    """dHash (T,): a bit for each of 8 x 8 cells of a thumbnail, set if it is brighter than the one to its right."""
    height, width = THUMB[1] // 2, THUMB[0] // 2
    cells = pixels.reshape(-1, height, 2, width, 2).mean(axis=(2, 4))
    bits = cells[:, :, :-1] > cells[:, :, 1:]
    return np.packbits(bits.reshape(-1, 64), axis=1).view(np.uint64).ravel()


def near(split: npt.NDArray[np.int64], infos: Sequence[FileInfo]) -> list[tuple[int, int]]:
    """Pairs (image, most similar image of an earlier split) that look the same: their difference hashes differ in at
    most BITS, and their thumbnails correlate by at least ALIKE. `split` (N,) is the split of each image.
    """
    rows, pixels = thumbs(infos)
    kept = pixels.std(axis=(1, 2)) >= FLAT
    rows, pixels = rows[kept], pixels[kept]
    if not len(rows):
        return []
    hashes, own = difference_hashes(pixels), split[rows]
    flat = pixels.reshape(len(pixels), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    found: list[tuple[int, int]] = []
    for number in range(1, int(own.max()) + 1):
        (late,), (early,) = np.nonzero(own == number), np.nonzero(own < number)
        for start in range(0, len(late) if len(early) else 0, TURN):
            turn = late[start : start + TURN]
            apart = np.bitwise_count(hashes[turn][:, None] ^ hashes[early][None])
            alike = np.where(apart <= BITS, flat[turn] @ flat[early].T, 0)
            best = alike.argmax(axis=1)
            chosen = np.flatnonzero(alike.max(axis=1) >= ALIKE)
            found += zip(rows[turn[chosen]].tolist(), rows[early[best[chosen]]].tolist(), strict=True)
    return found
