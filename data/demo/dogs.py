"""A demo of Stanford Dogs: drawn dogs of twelve breeds in its exact layout, and a noisy web set of them.

Coat colours are shared between breeds, so that colour alone does not tell them apart. An image depends
only on its name.

    Images/n02085620-Chihuahua/n02085620_1.jpg    Annotation/n02085620-Chihuahua/n02085620_1 (VOC XML)
    train_list.mat, test_list.mat                 file_list, annotation_list, labels (from 1)
    Web/chihuahua/0001.jpg                        as search results are: wrong breeds, no dogs, test images
    web_labels.json                               the class of each of Web's folders
    web_truth.json                                what each of Web's images shows; for measuring, not for training
"""

import json
import zlib
from functools import partial
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

import numpy as np
from numpy.random import Generator

from data.demo.breeds import BREEDS, Breed, render
from data.demo.generate import draw_all, make_once

VERSION = 1  # of the images: raise it when the same seed gives other ones
SIZE, SEED = 224, 0
WRONG, UNRELATED = 0.3, 0.1  # fractions of the web set's images that show another breed, or no dog of any breed


def generator(name: str) -> Generator:
    return np.random.default_rng([SEED, zlib.crc32(name.encode())])


ANNOTATION = """<annotation>
\t<folder>{synset}</folder>
\t<filename>{stem}</filename>
\t<source>
\t\t<database>demo</database>
\t</source>
\t<size>
\t\t<width>{size[0]}</width>
\t\t<height>{size[1]}</height>
\t\t<depth>3</depth>
\t</size>
\t<segment>0</segment>
\t<object>
\t\t<name>{name}</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>0</truncated>
\t\t<difficult>0</difficult>
\t\t<bndbox>
\t\t\t<xmin>{box[0]}</xmin>
\t\t\t<ymin>{box[1]}</ymin>
\t\t\t<xmax>{box[2]}</xmax>
\t\t\t<ymax>{box[3]}</ymax>
\t\t</bndbox>
\t</object>
</annotation>"""


class Job(NamedTuple):
    """An image to write: `subject` is a breed, "unrelated", or the official image that it is a copy of."""

    path: str
    subject: str
    official: bool = False


def write_image(root: Path, job: Job) -> None:
    path = root / job.path
    if job.subject.startswith("Images/"):  # drawn again, and put on the web smaller, brighter and compressed
        breed = job.subject.split("/")[1]
        image, _ = render(breed, SIZE, generator(job.subject))
        shrunk = image.resize((round(image.width * 0.9), round(image.height * 0.9)))
        shrunk.point(lambda v: min(255, round(v * 1.04))).save(path, quality=70)
        return
    rng = generator(job.path)
    image, box = render(job.subject, SIZE, rng)
    if not job.official:
        image.save(path, quality=int(rng.integers(70, 92)))
        return
    image.save(path, quality=90)
    synset, _, name = path.parent.name.partition("-")
    facts = {"synset": synset, "stem": path.stem, "name": escape(name), "size": image.size, "box": box}
    target = root / "Annotation" / path.parent.name / path.stem
    target.write_text(ANNOTATION.format(**facts))


def plan_official(train: int, test: int) -> tuple[list[Job], dict[str, list[str]]]:
    """Jobs, and the names (below Images/) of the images in each of the two lists."""
    jobs: list[Job] = []
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for breed in BREEDS:
        for i in range(train + test):
            name = f"{breed.name}/{breed.name.split('-')[0]}_{i + 1}.jpg"
            jobs.append(Job(f"Images/{name}", breed.name, official=True))
            lists["train" if i < train else "test"].append(name)
    return jobs, lists


def web_folder(breed: Breed) -> str:
    return breed.name.partition("-")[2].replace("_", " ").lower()


def plan_web(count: int, copies: int, tests: list[str]) -> list[Job]:
    """`count` images per breed, some of another breed or unrelated, and `copies` of test images."""
    jobs, rng = [], np.random.default_rng(SEED)
    for breed in BREEDS:
        others = [b.name for b in BREEDS if b is not breed]
        for i in range(count):
            luck = rng.random()
            if luck < WRONG:
                subject = str(rng.choice(others))
            else:
                subject = "unrelated" if luck < WRONG + UNRELATED else breed.name
            jobs.append(Job(f"Web/{web_folder(breed)}/{i:04d}.jpg", subject))
    breeds = {b.name: b for b in BREEDS}
    for i, name in enumerate(rng.permutation(tests)[:copies].tolist()):
        folder = web_folder(breeds[name.split("/")[0]])
        jobs.append(Job(f"Web/{folder}/copy_{i:02d}.jpg", f"Images/{name}"))
    return jobs


def write_list(path: Path, names: list[str]) -> None:
    """A list in the form of Stanford's .mat files: columns of cells, and labels from 1."""
    from scipy.io import savemat

    def cells(values: list[str]) -> np.ndarray:
        column = np.empty((len(values), 1), object)
        column[:, 0] = values
        return column

    index = {b.name: i for i, b in enumerate(sorted(BREEDS), start=1)}
    labels = np.array([[index[n.split("/")[0]]] for n in names], np.uint8)
    stems = [n.removesuffix(".jpg") for n in names]
    savemat(path, {"file_list": cells(names), "annotation_list": cells(stems), "labels": labels})


def write_dogs(root: Path, *, train: int = 12, test: int = 28, web: int = 80, copies: int = 24) -> None:
    """Writes the demo set into `root`, unless it exists already; `train`, `test` and `web` are per breed."""
    info = {"train": train, "test": test, "web": web, "copies": copies, "wrong": WRONG, "unrelated": UNRELATED}
    info |= {"size": SIZE, "seed": SEED, "version": VERSION}
    official, lists = plan_official(train, test)
    extra = plan_web(web, copies, lists["test"])
    jobs = [*official, *extra]

    def make(folder: Path) -> None:
        for job in jobs:
            (folder / job.path).parent.mkdir(parents=True, exist_ok=True)
        for breed in BREEDS:
            (folder / "Annotation" / breed.name).mkdir(parents=True)
        draw_all(partial(write_image, folder), jobs, chunk=16)
        for split, names in lists.items():
            write_list(folder / f"{split}_list.mat", names)
        label_map = {web_folder(b): b.name for b in BREEDS}
        (folder / "web_labels.json").write_text(json.dumps(label_map, indent=1))
        (folder / "web_truth.json").write_text(json.dumps({j.path: j.subject for j in extra}, indent=1))

    make_once(root, info, make)
