"""The drawn faces, the layouts of face attributes, and errors for wrong tables."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from backbones.errors import UserError
from data.base import SPLITS
from data.classification import ImageSet, Sample, collate
from data.csv_images import CsvData
from data.demo.faces import write_faces
from data.demo.portraits import ATTRIBUTES
from data.faces import CelebAData, FaceFolderData
from data.layouts import recognize
from tasks.check import with_task

WITH = {"workers": 0, "max_bad": 0.05}


@pytest.fixture
def copied(faces: Path, tmp_path: Path) -> Path:
    """A copy of the demo to damage."""
    return Path(shutil.copytree(faces, tmp_path / "faces"))


def celeba(root: Path, **settings: Any) -> CelebAData:
    return CelebAData(str(root), 32, **(WITH | settings))


def rewrite(path: Path, line: int, old: str, new: str) -> None:
    lines = path.read_text().splitlines()
    assert old in lines[line]
    lines[line] = lines[line].replace(old, new, 1)
    path.write_text("\n".join(lines) + "\n")


def test_images_depend_on_the_seed_alone(faces: Path, tmp_path: Path) -> None:
    write_faces(tmp_path / "again", people=20, images=3)
    files = sorted(p.relative_to(faces) for p in faces.rglob("*.*"))
    assert len(files) == 2 * 60 + 5
    for name in files:
        assert (faces / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_the_layout_is_that_of_celeba(faces: Path) -> None:
    count, names, *rows = (faces / "list_attr_celeba.txt").read_text().splitlines()
    assert (int(count), tuple(names.split()), len(rows)) == (60, ATTRIBUTES, 60)
    data = celeba(faces)
    assert data.labels == list(ATTRIBUTES)
    people = dict(line.split() for line in (faces / "identity_CelebA.txt").read_text().splitlines())
    seen = [{people[s.path.name] for s in data.samples(split)} for split in ("train", "val", "test")]
    assert [len(s) for s in seen] == [16, 2, 2]
    assert not seen[0] & seen[1]
    assert not seen[1] & seen[2]
    for sample in data.samples("val"):
        (row,) = [r.split()[1:] for r in rows if r.startswith(sample.path.name)]
        assert np.asarray(sample.label).tolist() == [int(v == "1") for v in row]


def test_a_count_that_disagrees_is_reported(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    rewrite(copied / "list_attr_celeba.txt", 0, "60", "202599")
    assert len(celeba(copied).samples("train")) == 48
    assert "announces 202599 images and has 60" in caplog.text


def test_rows_that_cannot_be_used(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A few are left out and reported, each with its reason; more than data.max_bad stop the run."""
    path = copied / "list_attr_celeba.txt"
    rewrite(path, 2, " 1", " 2") if " 1" in path.read_text().splitlines()[2] else rewrite(path, 2, "-1", "2")
    (copied / "img_align_celeba" / "000002.jpg").unlink()
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[-1], "000061.jpg 1"]) + "\n")
    found = celeba(copied, max_bad=0.1)
    assert sum(len(found.samples(split)) for split in ("train", "val", "test")) == 58
    for words in (
        "4 of 62 rows cannot be used",
        "with a value that is not 1, 0 or -1 (first: 000001.jpg, 2)",
        "without an image (first: ",
        "that repeat an image (first: 000060.jpg)",
        "without 12 values (first: 000061.jpg, 1)",
    ):
        assert words in caplog.text
    with pytest.raises(UserError, match=r"data\.max_bad=0\.05 may be unusable") as error:
        celeba(copied).samples("train")
    assert "\n" not in str(error.value)


def test_lists_that_are_none(copied: Path) -> None:
    (copied / "list_eval_partition.txt").write_text("000001.jpg 7\n")
    with pytest.raises(UserError, match=r"000001\.jpg is in part 7; it should be 0, 1 or 2"):
        celeba(copied).samples("train")
    (copied / "list_eval_partition.txt").unlink()
    with pytest.raises(UserError, match=r"list_eval_partition.txt cannot be read: No such file"):
        celeba(copied).samples("train")
    (copied / "list_attr_celeba.txt").write_text("")
    with pytest.raises(UserError, match="should start with the number of images"):
        _ = celeba(copied).labels


def kaggle(root: Path) -> None:
    """Lists in .csv, with one of boxes, and the images in a folder of a folder of the same name."""
    _, names, *rows = (root / "list_attr_celeba.txt").read_text().splitlines()
    parts = (root / "list_eval_partition.txt").read_text().splitlines()
    boxes = [f"{row.split()[0]} 1 2 30 40" for row in rows]
    heads = {"attr_celeba": names, "eval_partition": "partition", "bbox_celeba": "x_1 y_1 width height"}
    for (name, head), lines in zip(heads.items(), (rows, parts, boxes), strict=True):
        (root / f"list_{name}.txt").unlink(missing_ok=True)
        (root / f"list_{name}.csv").write_text("\n".join(",".join(x.split()) for x in (f"image_id {head}", *lines)))
    doubled(root)


def drive(root: Path) -> None:
    places = {"Anno": "list_attr_celeba.txt", "Eval": "list_eval_partition.txt", "Img": "img_align_celeba"}
    for folder, name in places.items():
        (root / folder).mkdir()
        (root / name).rename(root / folder / name)


def doubled(root: Path) -> None:
    (root / "img_align_celeba").rename(root / "inside")
    (root / "img_align_celeba").mkdir()
    (root / "inside").rename(root / "img_align_celeba" / "img_align_celeba")


@pytest.mark.parametrize("change", [kaggle, drive, doubled])
def test_celeba_as_others_publish_it(change: Callable[[Path], None], copied: Path) -> None:
    before = {split: celeba(copied).samples(split) for split in SPLITS}
    for more in ("people", "lfw", "pairs.txt"):  # of the demo alone
        (copied / more).rename(copied.parent / more)
    change(copied)
    data = celeba(copied)
    assert data.labels == list(ATTRIBUTES)
    for split in SPLITS:
        after = data.samples(split)
        assert [(s.path.name, np.asarray(s.label).tolist()) for s in after] == [
            (s.path.name, np.asarray(s.label).tolist()) for s in before[split]
        ]
        assert all(s.path.is_file() for s in after)
    assert recognize(copied, "_faces").option == "celeba"
    assert "data=celeba" in with_task([f"data.root={copied}"])[0]


def test_a_share_of_the_labels_and_the_rest(faces: Path) -> None:
    tenth = celeba(faces, labelled_fraction=0.25).samples("train")
    assert len(tenth) == 12
    mixed = celeba(faces, labelled_fraction=0.25, unlabelled="keep", unlabelled_folder="lfw").samples("train")
    known = [s.path for s in mixed if np.asarray(s.label).min() >= 0]
    assert len(mixed) == 48 + 12
    assert known == [s.path for s in tenth]
    assert {s.path.parent.parent.name for s in mixed[48:]} == {"lfw"}


def csv_data(root: Path, content: str, **settings: Any) -> CsvData:
    (root / "a.csv").write_text(content)
    names = {"train": "a.csv", "val": "a.csv", "attributes": []}
    return CsvData(str(root), 32, **(names | WITH | settings))


def test_csv(tmp_path: Path) -> None:
    for name in ("a b.jpg", "c.jpg"):
        Image.new("RGB", (40, 50)).save(tmp_path / name)
    Image.new("RGB", (40, 50)).save(tmp_path / "d.jpg")
    data = csv_data(tmp_path, 'file,hat, beard\n"a b.jpg",1,0\nc.jpg,,1\nd.jpg,0,1\n')
    assert data.labels == ["hat", "beard"]
    assert [np.asarray(s.label).tolist() for s in data.samples("train")] == [[1, 0], [-1, 1], [0, 1]]
    for content, words in (
        ("file,hat\nc.jpg,2\n", "which column has both yes and no"),
        ("file,hat\nabsent.jpg,1\n", "no column names images"),
        ("file,hat\nc.jpg,1\nabsent.jpg,0\nc\n", r"1 without an image \(first: absent.jpg\), 1 without 2 values"),
        ("file,hat\nc.jpg,1\nc.jpg,0\n", "that repeat an image"),
        ("file,hat,hat\nc.jpg,1,1\n", "should have a header that names at least two columns, each once"),
        ("", "should have a header"),
    ):
        with pytest.raises(UserError, match=words):
            csv_data(tmp_path, content, image="file" if ",1\nabsent" in content else None).samples("train")


def test_values_of_a_table_that_are_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In an attribute, as pandas writes such a column; and in the split: the row belongs to none, and is counted."""
    for i in range(4):
        Image.new("RGB", (40, 50)).save(tmp_path / f"{i}.jpg")
    data = csv_data(tmp_path, "file,hat\n0.jpg,1.0\n1.jpg,0.0\n2.jpg,\n3.jpg,-1.0\n")
    assert [np.asarray(s.label).tolist() for s in data.samples("train")] == [[1], [0], [-1], [0]]
    classes = {"val": None, "attributes": None}
    text = "file,label,split\n0.jpg,a,train\n1.jpg,b,train\n2.jpg,a,val\n3.jpg,b,\n"
    found = csv_data(tmp_path, text, **classes)
    assert [len(found.samples(split)) for split in ("train", "val")] == [2, 1]
    assert "1 of 4 images are left out, as their split is not train, val or test but nothing (1)" in caplog.text
    strange = csv_data(tmp_path, text.replace("2.jpg,a", "2.jpg,c"), **classes)
    with pytest.raises(UserError, match=r"a\.csv: val has a class that train lacks: c"):
        strange.samples("val")


def test_a_folder_without_labels(faces: Path) -> None:
    settings = WITH | {"val": 0.1}
    data = FaceFolderData(str(faces / "people"), 32, attributes=["hat"], **settings)
    train, val = data.samples("train"), data.samples("val")
    assert len(train) + len(val) == 48
    assert 0 < len(val) < 15
    assert not {s.path for s in train} & {s.path for s in val}
    assert all(np.asarray(s.label).tolist() == [-1] for s in train)
    nameless = FaceFolderData(str(faces / "people"), 32, attributes=None, **settings)
    with pytest.raises(UserError, match=r"need a teacher, or data\.attributes"):
        _ = nameless.labels


@pytest.mark.parametrize(
    ("folders", "splits", "told"),
    [
        (("train", "val", "test"), ("train", "val", "test"), "splits by the images' folders"),
        (("Training", "test_images"), ("Training", "test_images", "test_images"), "val is test"),
        (("Train", "Rome"), None, "about 10% for val"),
    ],
)
def test_folders_of_splits_are_the_splits_of_images_without_labels(
    folders: tuple[str, ...], splits: tuple[str, ...] | None, told: str, tmp_path: Path
) -> None:
    """The user's test images would train the student otherwise."""
    for folder in folders:
        (tmp_path / folder).mkdir()
        for i in range(10):
            Image.new("RGB", (8, 8)).save(tmp_path / folder / f"{i}.png")
    data = FaceFolderData(str(tmp_path), 32, attributes=["hat"], val=0.1, **WITH)
    found = [{s.path.parent.name for s in data.samples(split)} for split in SPLITS]
    assert found == [{name} for name in splits] if splits else found[0] == {*folders}
    assert told in data.choices


def test_images_that_are_added_to_a_folder_move_no_others(tmp_path: Path) -> None:
    held = []
    for count in (40, 60):
        for i in range(count):
            Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
        data = FaceFolderData(str(tmp_path), 32, attributes=["hat"], val=0.3, **WITH)
        held.append({int(s.path.stem) for s in data.samples("val")})
    assert 0 < len(held[0]) < 30
    assert held[0] == {i for i in held[1] if i < 40}


def test_views_are_few_and_always_the_same(faces: Path) -> None:
    samples = [Sample(p, 0) for p in sorted((faces / "img_align_celeba").iterdir())[:3]]
    settings: dict[str, Any] = {"min_scale": 0.3, "flip": True, "views": 2}
    random.seed(0)
    seen: dict[tuple[int, int], torch.Tensor] = {}
    for keep in (False, True):
        images = ImageSet(samples, 32, cache_images=keep, **settings)
        for i in [*range(3)] * 8:
            batch = collate([images[i]])
            key = batch.rows[0], batch.views[0]
            first = seen.setdefault(key, batch.images)
            assert (batch.images.int() - first.int()).abs().float().mean() < (8 if keep else 1e-9)
    assert sorted(seen) == [(row, view) for row in range(3) for view in range(2)]
    assert (seen[0, 0].int() - seen[0, 1].int()).abs().float().mean() > 16
    other = ImageSet(samples, 32, **(settings | {"views": 3}))
    assert other.fingerprint() != images.fingerprint() == ImageSet(samples, 32, **settings).fingerprint()
