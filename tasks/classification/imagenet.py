"""ImageNet's classes by name, for weights that come with its classifier."""

import re
from collections.abc import Sequence
from functools import cache

SYNSET = re.compile(r"n\d{8}")


@cache
def _classes() -> dict[str, int]:
    """The index of each of the 1,000 classes by its WordNet id and by its names, lower case. A name of several classes
    means the one of which it is the first name (tub is not bathtub); if it is that of several, as crane is, none.
    """
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    found: dict[str, set[int]] = {}
    first: dict[str, set[int]] = {}
    for i in range(info.num_classes()):
        names = info.index_to_description(i).lower().split(", ")
        for name in names:
            found.setdefault(name, set()).add(i)
        for name in (info.index_to_label_name(i), names[0]):
            first.setdefault(name, set()).add(i)
    return {name: min(classes) for name, classes in (found | first).items() if len(classes) == 1}


def imagenet_rows(labels: Sequence[str]) -> list[int] | None:
    """The index of each label among ImageNet's classes, by its WordNet id (n02085620, n02085620-Chihuahua) or its name;
    None if one is not among them or is the name of several, or two are the same.
    """
    rows = []
    for label in labels:
        match = SYNSET.match(label)
        row = _classes().get(match[0] if match else label.replace("_", " ").strip().lower())
        if row is None or row in rows:
            return None
        rows.append(row)
    return rows
