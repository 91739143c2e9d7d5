"""A demo of face data: drawn portraits of made-up people, in the layouts of CelebA and of LFW.

Four fifths of the people are for training, the others are held out. An image depends only on (seed, person, number).

    img_align_celeba/000001.jpg  list_attr_celeba.txt  list_eval_partition.txt  identity_CelebA.txt
    people/Drawn_001/Drawn_001_0001.jpg      the training people again, a folder each
    lfw/Drawn_161/Drawn_161_0001.jpg         the held-out people, and pairs.txt: same and different, in ten folds
"""

import io
from collections.abc import Iterator
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np

from data.demo.generate import draw_all, make_once
from data.demo.portraits import ATTRIBUTES, Person, render

VERSION = 2  # of the images: raise it when the same seed gives other ones
PAIRS = 60  # most pairs of the same person, and of different people, in a fold


def name(person: int) -> str:
    return f"Drawn_{person + 1:03d}"


def held_out(people: int) -> range:
    return range(people - people // 5, people)


def numbers(people: int, images: int, seed: int) -> np.ndarray:
    """Index (from 0) of each (person, number) in CelebA's layout, where people are mixed."""
    return np.random.default_rng([seed, 2]).permutation(people * images).reshape(people, images)


def write_person(root: Path, people: int, images: int, seed: int, person: int) -> list[dict[str, bool]]:
    """Draws a person's images into both layouts, and returns their attributes."""
    places = numbers(people, images, seed)[person]
    look = Person.random(np.random.default_rng([seed, person]))
    folder = root / ("lfw" if person in held_out(people) else "people") / name(person)
    folder.mkdir(parents=True)
    truths = []
    for number in range(images):
        rng = np.random.default_rng([seed, person, number])
        image, truth = render(look, rng)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(rng.integers(80, 95)))
        (folder / f"{name(person)}_{number + 1:04d}.jpg").write_bytes(buffer.getvalue())
        (root / "img_align_celeba" / f"{places[number] + 1:06d}.jpg").write_bytes(buffer.getvalue())
        truths.append(truth)
    return truths


def write_celeba(root: Path, truths: list[list[dict[str, bool]]], seed: int) -> None:
    """The three lists of CelebA; half of the held-out people are for validation, the others for testing."""
    people, tests = len(truths), held_out(len(truths))
    places = numbers(people, len(truths[0]), seed)
    rows = [("", "", "")] * places.size
    for person, images in enumerate(truths):
        part = 0 if person not in tests else 1 if person < (tests.start + people) // 2 else 2
        for place, truth in zip(places[person], images, strict=True):
            values = " ".join(f"{1 if truth[a] else -1:2d}" for a in ATTRIBUTES)
            rows[place] = values, str(part), str(person + 1)
    heads = {
        "list_attr_celeba.txt": f"{len(rows)}\n{' '.join(ATTRIBUTES)}\n",
        "list_eval_partition.txt": "",
        "identity_CelebA.txt": "",
    }
    for (file, head), column in zip(heads.items(), zip(*rows, strict=True), strict=True):
        lines = [f"{i + 1:06d}.jpg {value}\n" for i, value in enumerate(column)]
        (root / file).write_text(head + "".join(lines))


def pair_lines(people: int, images: int, seed: int) -> Iterator[str]:
    """LFW's pairs.txt: as many pairs of one person as of two in each fold, and no person in two folds."""
    rng, persons = np.random.default_rng([seed, 1]), list(held_out(people))
    groups = np.array_split(persons, min(10, len(persons) // 2))
    folds = []
    for group in groups:
        numbers = range(1, images + 1)
        same = [(name(p), a, b) for p in group for a, b in combinations(numbers, 2)]
        other = [(name(p), a, name(q), b) for p, q in combinations(group, 2) for a in numbers for b in numbers]
        folds.append((same, other))
    count = min(PAIRS, *(len(pairs) for fold in folds for pairs in fold))
    yield f"{len(folds)}\t{count}"
    for fold in folds:
        for pairs in fold:
            for i in sorted(rng.permutation(len(pairs))[:count]):
                yield "\t".join(map(str, pairs[i]))


def write_faces(root: Path, *, people: int = 200, images: int = 10, seed: int = 0) -> None:
    """Writes the demo set into `root`, unless it exists already; `images` are per person, people 10 or more."""
    info = {"version": VERSION, "people": people, "images": images, "seed": seed}

    def make(folder: Path) -> None:
        (folder / "img_align_celeba").mkdir()
        truths = draw_all(partial(write_person, folder, people, images, seed), range(people), chunk=4)
        write_celeba(folder, truths, seed)
        (folder / "pairs.txt").write_text("\n".join([*pair_lines(people, images, seed), ""]))

    make_once(root, info, make)
