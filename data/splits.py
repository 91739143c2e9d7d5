"""Names of splits, and a reproducible random split into train and val for data without splits. Nothing here needs
torch.
"""

import json
import logging
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TypeVar

from backbones.errors import UserError
from backbones.files import atomic_write
from data.text import read_json

log = logging.getLogger(__name__)

Source = TypeVar("Source")
FILE = "splits.json"  # in the data's root: {"train": [keys], "val": [keys]}
VAL_FRACTION = 0.2
SPLIT_NAMES = {
    "train": ("train", "training", "train2017", "train2014"),
    "val": ("val", "valid", "validation", "val2017", "val2014", "dev", "publictest"),
    "test": ("test", "testing", "eval", "privatetest"),  # publictest and privatetest as FER2013 has them
}


def split_from_word(word: str) -> str | None:
    """The split that a word means: validation means val."""
    return next((split for split, names in SPLIT_NAMES.items() if word.lower() in names), None)


def split_in_name(name: str) -> str | None:
    """The split that a word in a name means: train in instances_train2017, train_labels or trainLabels."""
    words = _words(name)
    return next((split for split, names in SPLIT_NAMES.items() if words & set(names)), None)


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()))


def split_of_file(path: Path, root: Path) -> str | None:
    """The split that a file in a split's folder below `root` belongs to, or that its own name means."""
    return (split_from_word(path.parent.name) if path.parent != root else None) or split_in_name(path.stem)


def source_name(name: str) -> str:
    """The name of the image that a file was made from: Roboflow names copies a_jpg.rf.<letters>.jpg."""
    return re.sub(r"\.rf\.\w+\.\w+$", "", name)


def splits_of_folders(keys: Sequence[str]) -> list[str | None]:
    """The split that a folder of each path is named after, if any; empty unless there are train and another split.
    Beside folders of no split, names with further words count only in pairs, such as train_images and val_images: an
    album may be called Train ride.
    """
    folders = [key.split("/")[:-1] for key in keys]
    named = {name: split for names in folders for name in names if (split := split_in_name(name))}
    if any(names and named.keys().isdisjoint(names) for names in folders):
        further = {name: frozenset(_words(name).difference(*SPLIT_NAMES.values())) for name in named}
        splits_with = {words: {named[n] for n in named if further[n] == words} for words in further.values()}
        named = {name: split for name, split in named.items() if {"train"} < splits_with[further[name]]}
    splits = [next((named[name] for name in names if name in named), None) for names in folders]
    return splits if {"train"} < {*splits} - {None} else []


def given_splits(
    source: Path | str, keys: Sequence[str], words: Sequence[str], report: Callable[[str], None]
) -> list[str | None]:
    """The split of each image of `source`, of which `keys` are the paths below the data's root: by its word in a column
    of splits, or else by its folders; train if neither names any. Test becomes val if there is no val. Images whose
    word or folder is of no split have None. Both are reported.
    """
    splits = [*map(split_from_word, words)]
    if not splits and (splits := splits_of_folders(keys)):
        words = [os.path.dirname(key) for key in keys]
        report("splits by the images' folders")
    if left := Counter(word or "nothing" for word, split in zip(words, splits, strict=True) if split is None):
        named = ", ".join(f"{word:.40} ({count})" for word, count in left.most_common(5))
        text = "%s: %d of %d images are left out, as their split is not train, val or test but %s"
        log.warning(text, source, left.total(), len(keys), named)
    if "test" in splits and "val" not in splits:
        report("val is test")
        splits = ["val" if split == "test" else split for split in splits]
    return splits or ["train"] * len(keys)


def with_val(sources: dict[str, Source]) -> dict[str, Source]:
    """The sources of splits, where test becomes val if there is no val."""
    if "val" in sources or "test" not in sources:
        return sources
    return {"val" if split == "test" else split: source for split, source in sources.items()}


def draw_splits(
    root: Path,
    keys: Sequence[str],
    strata: Sequence[Hashable] | None = None,
    groups: Sequence[Hashable] | None = None,
    file: str = FILE,
    write: bool = True,
) -> dict[str, str]:
    """The split, train or val, of each key, such as an image's path below `root`. They are read from `root`/`file`,
    which is written if it is absent or lacks keys, unless `write` is False.

    A fifth of each of the `strata`, such as classes, is drawn for val; keys of one of the `groups`, such as photographs
    by one sender, stay together. Train keeps some of each stratum.
    """
    saved = _saved(root / file)
    if saved.keys() >= set(keys):
        return {key: saved[key] for key in keys}
    groups = groups or list(keys)
    known = {group: saved[key] for key, group in zip(keys, groups, strict=True) if key in saved}
    drawn = _drawn(keys, strata or [0] * len(keys), groups)
    splits = {k: saved.get(k) or known.get(group, drawn[k]) for k, group in zip(keys, groups, strict=True)}
    if not write:
        return splits
    lists = {name: [key for key, split in (saved | splits).items() if split == name] for name in ("train", "val")}
    try:
        with atomic_write(root / file, "w") as output:
            json.dump(lists, output, indent=0)
    except OSError:  # a read-only folder: the draw is the same next time, unless images are added
        log.info("%s cannot be written; every run makes the same random split again", root / file)
    return splits


def _saved(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    content = read_json(path)
    lists = content if isinstance(content, dict) else {}
    train, val = lists.get("train"), lists.get("val")
    if not isinstance(train, list) or not isinstance(val, list):
        raise UserError(f"{path} should hold the lists train and val; delete it to split the data again")
    return {str(key): "train" for key in train} | {str(key): "val" for key in val}


def _drawn(keys: Sequence[str], strata: Sequence[Hashable], groups: Sequence[Hashable]) -> dict[str, str]:
    """Greedy, the largest groups first: each is added to val if that brings the strata nearer to their share; a group
    of several keys only if val does not exceed its share, or a single large group could be most of val. If val is still
    too small (a fifth of a stratum of two is none), it is filled up from strata that it lacks.
    """
    rows: dict[Hashable, list[int]] = {}
    for i in sorted(range(len(keys)), key=lambda i: keys[i]):
        rows.setdefault(groups[i], []).append(i)
    order = list(rows)
    random.Random(0).shuffle(order)
    order.sort(key=lambda group: -len(rows[group]))
    left = Counter(strata)  # in train
    missing = {stratum: VAL_FRACTION * count for stratum, count in left.items()}
    val: set[int] = set()
    taken: set[Hashable] = set()  # strata of which val has some
    for rare in (False, True):
        for group in order:
            counts = Counter(strata[i] for i in rows[group])
            change = sum(abs(missing[s] - n) - abs(missing[s]) for s, n in counts.items())
            fits = len(val) + len(rows[group]) <= max(1, VAL_FRACTION * len(keys))
            nearer = change < 0 and (fits or len(rows[group]) == 1)
            wanted = fits and not counts.keys() & taken if rare else nearer
            if wanted and all(left[s] > n for s, n in counts.items()):
                val.update(rows[group])
                taken |= counts.keys()
                left -= counts
                for stratum, count in counts.items():
                    missing[stratum] -= count
    return {key: "val" if i in val else "train" for i, key in enumerate(keys)}
