"""Data of classification, faces, people and places given by `data.root` alone: what is recognised and what refused."""

import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backbones.errors import UserError
from data.base import SPLITS, SuiteData
from data.classification import Sample
from data.geo.places import GeoData
from data.identities import IdentityData
from data.layouts import recognize
from data.layouts.folder import SAMPLE
from tasks.engine.config import load_config
from tasks.engine.layout import with_recognized_layout
from tasks.engine.start import build_data
from tasks.run import execute
from tests.conftest import shared
from tests.data.test_imagenet import write_devkit

PNG = io.BytesIO()
Image.new("RGB", (8, 8)).save(PNG, "PNG")
FAMILIES = {"classification": "classification", "faces": "faces", "people": "embedding", "geo": "geo"}


def images(*paths: Path | str, root: Path) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(PNG.getvalue())


def tree(root: Path, *folders: str, count: int = 5, classes: Sequence[str] = "ab") -> None:
    """A folder of images for each class, below each of some folders."""
    images(*(f"{f}/{c}/{i}.png" for f in folders for c in classes for i in range(count)), root=root)


def opened(task: str, root: Path, *more: str) -> tuple[str, SuiteData]:
    """The option that data.root is recognised as, and the data, whose splits were all opened."""
    overrides, layout = with_recognized_layout([f"task={task}", f"data.root={root}", "task.resolution=32", *more])
    assert layout
    data = build_data(load_config(overrides))
    assert data.labels
    data.check()
    return layout.option, data


def samples(data: Any) -> dict[str, list[Sample]]:
    return {split: data.samples(split) for split in SPLITS}


def counts(data: SuiteData) -> list[int]:
    return [len(found) for found in samples(data).values()]


def table(root: Path, name: str, *lines: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("\n".join(lines) + "\n")


def shard(path: Path, *records: Mapping[str, object]) -> None:
    """Samples of a PNG and a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for i, record in enumerate(records):
            for kind, content in {"png": PNG.getvalue(), "json": json.dumps(record).encode()}.items():
                info = tarfile.TarInfo(f"{i:04d}.{kind}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def class_splits(root: Path) -> None:
    tree(root, "train", "valid", "test", count=2)


def train_and_test(root: Path) -> None:
    tree(root, "data/train", "data/test", count=2)


def sets(root: Path) -> None:
    tree(root, "training_set", "test_set", count=2)


def wrapped(root: Path) -> None:
    """As Intel's scenes."""
    tree(root, "seg_train/seg_train", "seg_test/seg_test", count=2)
    images("seg_pred/seg_pred/1.png", root=root)


def classes_with_words(root: Path) -> None:
    """A class may be called train or test."""
    tree(root, "test tube", "bottle", classes=("in", "out"))


def flat_test(root: Path) -> None:
    """As in a contest: the test labels are not published."""
    tree(root, "train", "val", count=2)
    images("test/1.png", root=root)


def class_folders(root: Path) -> None:
    tree(root, "flowers", count=10)


def beside_lists(root: Path) -> None:
    """As Food-101, and CUB-200 with its parts/."""
    tree(root, "food-101/images", count=10)
    table(root, "food-101/meta/classes.txt", "a", "b")
    table(root, "food-101/README.txt", "")


def twice_wrapped(root: Path) -> None:
    """As Stanford Dogs on Kaggle."""
    tree(root, "images/Images", count=10)
    for name in "ab":
        table(root, f"annotations/Annotation/{name}/0", "<annotation/>")


def imagenet(root: Path) -> None:
    write_devkit(root)
    tree(root, "train", classes=("n02119789", "n02100735", "n01440764"), count=2)
    images(*(f"val/ILSVRC2012_val_{i:08d}.png" for i in range(5)), root=root)


def huggingface(root: Path) -> None:
    for split in ("train", "validation"):
        images(*(f"{split}/{i}.png" for i in range(4)), root=root)
        lines = [json.dumps({"file_name": f"{i}.png", "label": i % 2, "text": None}) for i in range(4)]
        table(root, f"{split}/metadata.jsonl", *lines)


def one_table(root: Path) -> None:
    images(*(f"images/{i}.x.png" for i in range(20)), root=root)
    table(root, "all.csv", "who_id;name;Class", *(f"{i // 2};{i}.x;{'cat' if i % 2 else 'a dog'}" for i in range(20)))


def three_tables(root: Path) -> None:
    """The same names in each split's folder."""
    for split in ("train", "val", "test"):
        images(*(f"{split}/{i}.png" for i in range(4)), root=root)
        table(root, f"{split}.tsv", "file\tlabel", *(f"{i}.png\t{i % 2}" for i in range(4)))


def named_tables(root: Path) -> None:
    """As FairFace has them."""
    for split in ("train", "val"):
        images(*(f"{split}/{i}.png" for i in range(4)), root=root)
        table(root, f"{split}_labels.csv", "file,label", *(f"{split}/{i}.png,{i % 2}" for i in range(4)))


def shards(root: Path) -> None:
    for name in ("my-train-000", "my-train-001", "my-val-000"):
        shard(root / f"{name}.tar", *({"label": label} for label in ("a", "b")))


@pytest.mark.parametrize(
    ("make", "option", "labels", "sizes"),
    [
        (class_splits, "folders", ["a", "b"], [4, 4, 4]),
        (train_and_test, "folders", ["a", "b"], [4, 4, 4]),
        (flat_test, "folders", ["a", "b"], [4, 4, 4]),
        (sets, "folders", ["a", "b"], [4, 4, 4]),
        (wrapped, "folders", ["a", "b"], [4, 4, 4]),
        (classes_with_words, "folders", ["bottle", "test tube"], [16, 4, 4]),
        (class_folders, "folders", ["a", "b"], [16, 4, 4]),
        (beside_lists, "folders", ["a", "b"], [16, 4, 4]),
        (twice_wrapped, "folders", ["a", "b"], [16, 4, 4]),
        (imagenet, "imagenet", ["n01440764 tench", "n02100735 English setter", "n02119789 kit fox"], [6, 5, 5]),
        (huggingface, "csv", ["0", "1"], [4, 4, 4]),
        (one_table, "csv", ["a dog", "cat"], [16, 4, 4]),
        (three_tables, "csv", ["0", "1"], [4, 4, 4]),
        (named_tables, "csv", ["0", "1"], [4, 4, 4]),
        (shards, "shards", ["a", "b"], None),
    ],
)
@pytest.mark.parametrize("task", ["classification", "dogs"])
def test_classes(
    task: str, make: Callable[[Path], None], option: str, labels: list[str], sizes: list[int] | None, tmp_path: Path
) -> None:
    make(tmp_path)
    found, data = opened(task, tmp_path)
    assert (found, data.labels) == (option, labels)
    if sizes:
        assert counts(data) == sizes
        if sizes[0] > sizes[1] and option != "imagenet":  # drawn: a fifth of each class, the same each time
            kept = json.loads((tmp_path / "splits.json").read_text())
            assert [len(kept["train"]), len(kept["val"])] == sizes[:2]
            assert Counter(s.label for s in samples(data)["val"]) == {0: sizes[1] // 2, 1: sizes[1] // 2}
            assert samples(opened(task, tmp_path)[1]) == samples(data)
        paths = {split: {s.path for s in found} for split, found in samples(data).items()}
        assert not paths["train"] & paths["val"]
        assert all(path.is_file() for split in paths.values() for path in split)
    else:
        assert data.num_images("train") == 4


def test_what_is_not_used_is_told(tmp_path: Path) -> None:
    flat_test(tmp_path)
    found = recognize(tmp_path, "_classification").description
    assert found == "a folder for each class: train, val, not test, which has none"


def test_the_table_that_is_called_train_is_train_s(tmp_path: Path) -> None:
    three_tables(tmp_path)
    table(tmp_path, "train_small.tsv", "file\tlabel", "1.png\t1", "2.png\t0")
    settings = recognize(tmp_path, "_classification").settings
    assert settings == {split: f"{split}.tsv" for split in SPLITS}


def test_a_table_beside_many_images_is_seen(tmp_path: Path) -> None:
    for i in range(SAMPLE + 200):
        (tmp_path / f"{i}.png").touch()
    table(tmp_path, "labels.csv", "image,label", "1.png,a", "2.png,b")
    assert recognize(tmp_path, "_classification").option == "csv"


def test_an_archive_beside_what_it_held(tmp_path: Path) -> None:
    class_folders(tmp_path)
    shard(tmp_path / "all.tar", {"label": 1})
    assert opened("classification", tmp_path)[0] == "folders"


def test_stanford_dogs(dogs: Path) -> None:
    option, data = opened("dogs", dogs)
    assert (option, len(data.labels)) == ("dogs", 12)


@pytest.mark.parametrize("option", ["faces_csv", "csv"])
def test_attributes(option: str, tmp_path: Path) -> None:
    images(*(f"{i}.png" for i in range(10)), root=tmp_path)
    rows = [f"{i}.png,{i},{('No', 'yes', 'n', 'Y')[i % 4]},{i % 2 or -1},shirt" for i in range(9)]
    table(tmp_path, "faces.csv", "photo,age,hat,beard,coat", *rows, "9.png,3,,TRUE,dress")
    more = () if option == "faces_csv" else ("data=csv", "data.train=faces.csv")
    overrides, _ = with_recognized_layout(["task=faces", f"data.root={tmp_path}", "task.resolution=32", *more])
    data = build_data(load_config(overrides))
    assert (data.labels, counts(data)) == (["hat", "beard"], [8, 2, 2])
    labels = {s.path.name: np.asarray(s.label).tolist() for split in samples(data).values() for s in split}
    assert labels["1.png"] == [1, 1]
    assert labels["2.png"] == [0, 0]
    assert labels["9.png"] == [-1, 1]
    with pytest.raises(UserError, match=r"10 of 10 .* with a value that is not yes or no, .*first: 0\.png, shirt"):
        build_data(load_config([*overrides, "data.attributes=[coat]"])).check()
    with pytest.raises(UserError, match=r"data\.target is a column of classes; .* data\.attributes="):
        build_data(load_config([*overrides, "data.target=coat"]))
    with pytest.raises(UserError, match=r"data\.attributes are for task=faces"):
        build_data(load_config(["task=classification", "data=csv", f"data.root={tmp_path}", "data.attributes=[hat]"]))


def test_faces(faces: Path) -> None:
    option, data = opened("faces", faces)
    assert (option, len(data.labels)) == ("celeba", 12)
    option, data = opened("faces", faces / "people", "data.attributes=[hat]")
    train, val, test = counts(data)
    assert (option, train + val, test) == ("face_folder", 48, val)


def test_people(faces: Path, tmp_path: Path) -> None:
    option, data = opened("embedding", faces)
    assert (option, counts(data)) == ("identities", [48, 12, 12])
    assert isinstance(data, IdentityData)
    assert data.pairs("val") is not None
    for name in ("lfw", "alone"):
        tree(tmp_path / name, "lfw" if name == "lfw" else ".", classes="abcdefghij", count=2)
        images(f"{'lfw/' if name == 'lfw' else ''}once/1.png", root=tmp_path / name)
        option, data = opened("embedding", tmp_path / name)
        people = {split: {s.path.parent.name for s in found} for split, found in samples(data).items()}
        assert option == "identities"
        assert [len(people[split]) for split in SPLITS] == [9, 2, 2]
        assert not people["train"] & people["val"]
        assert data.labels == [str(i) for i in range(9)]


def test_people_below_a_folder_that_an_archive_has_twice(tmp_path: Path) -> None:
    """As LFW on Kaggle, beside lists of its people."""
    tree(tmp_path, "lfw/lfw", count=2)
    table(tmp_path, "people.csv", "name,images", "a,2", "b,2")
    layout = recognize(tmp_path, "_identities")
    assert (layout.option, layout.settings) == ("identities", {"train": "lfw/lfw", "val": None})


def test_places(tmp_path: Path) -> None:
    cells = ("data.min_photos=2", "data.max_photos=[10]")
    images(*(f"images/{i}.png" for i in range(40)), root=tmp_path)
    places = [f"{i},{10 + i // 4},{20 + i // 4}" for i in range(40)]  # four photos of each place
    table(tmp_path, "photos.csv", "photo,Latitude,lng", *places)
    option, data = opened("geo", tmp_path, *cells)
    assert isinstance(data, GeoData)
    positions = [{tuple(p) for p in data.places(split).positions.tolist()} for split in SPLITS]
    assert (option, [len(p) for p in positions]) == ("places", [8, 2, 2])
    assert not positions[0] & positions[1]
    for split in ("train", "val"):
        records = [{"lat": float(i), "LON": float(i)} for i in range(1, 5)] * 4
        shard(tmp_path / "shards" / split / "0.tar", *records)
    option, data = opened("geo", tmp_path / "shards", *cells)
    assert (option, data.num_images("train")) == ("place_shards", 16)


# --- groups ---------------------------------------------------------------------------------------------------------


def test_a_group_is_in_one_split_and_no_class_is_in_val_alone(tmp_path: Path) -> None:
    images(*(f"{i}.png" for i in range(60)), root=tmp_path)
    rows = [f"{i}.png,{i // 3},{'rare' if i < 3 else 'ab'[i % 2]}" for i in range(60)]  # a class from one sender
    table(tmp_path, "images.csv", "image,sender_id,label", *rows)
    _, data = opened("classification", tmp_path)
    assert (
        "classes in label, data.group=sender_id would keep each sender_id in one split, a random fifth" in data.choices
    )
    _, data = opened("classification", tmp_path, "data.group=sender_id")  # another split than the one without groups
    senders = {split: {int(s.path.stem) // 3 for s in found} for split, found in samples(data).items()}
    assert not senders["train"] & senders["val"]
    assert 0 in senders["train"]
    assert counts(data) == [48, 12, 12]
    images("60.png", root=tmp_path)  # a further photograph by a sender of val
    row = f"60.png,{min(senders['val'])},a"
    table(tmp_path, "images.csv", "image,sender_id,label", *rows, row)
    _, data = opened("classification", tmp_path, "data.group=sender_id")
    assert counts(data) == [48, 13, 13]
    table(tmp_path, "val.csv", "image,sender_id,label", row)
    table(tmp_path, "test.csv", "image,sender_id,label", f"60.png,{max(senders['train'])},a")
    for more, words in (
        (
            ["data.group=sender"],
            r"images\.csv has no column sender \(data\.group\); its columns are image, sender_id,",
        ),
        (["data.group=sender_id", "data.val=val.csv"], r"data\.group=sender_id: \d+ is in train and in val"),
        (["data.group=sender_id", "data.test=test.csv"], r"data\.group=sender_id: \d+ is in train and in test"),
    ):
        config = load_config(["task=classification", "data=csv", f"data.root={tmp_path}", *more])
        with pytest.raises(UserError, match=words):
            build_data(config).check()


# --- real data ------------------------------------------------------------------------------------------------------


def linked(name: str, root: Path) -> Path:
    """A folder with links to the files of real data, which stay as they are."""
    for path in shared(f"data/{name}").iterdir():
        (root / path.name).symlink_to(path)
    return root


def test_clothing(tmp_path: Path) -> None:
    root = linked("clothing", tmp_path)
    _, data = opened("classification", root, "data.group=sender_id")
    assert len(data.labels) == 17
    train, val, _ = counts(data)
    assert train + val == 702
    assert 0.15 < val / 702 < 0.25
    assert opened("faces", root, "data.group=sender_id")[1].labels == ["kids"]


def test_dogs_of_three_breeds() -> None:
    option, data = opened("dogs", shared("data/dogs"))
    assert (option, data.labels) == ("folders", ["Beagle", "Siberian Husky", "Toy Poodle"])
    assert sum(counts(data)) == 583


def test_six_photos_with_gps(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 photos with positions are too few to train on"):
        opened("geo", linked("exif", tmp_path))


# --- trained --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["classification", "faces", "embedding", "geo"])
def test_a_run_by_the_root_alone(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    tree(root, ".", classes="abcdefgh", count=4)
    names = [path.relative_to(root) for path in sorted(root.rglob("*.png"))]
    if task == "faces":
        table(root, "faces.csv", "image,hat", *(f"{name},{i % 2}" for i, name in enumerate(names)))
    if task == "geo":
        table(root, "places.csv", "image,lat,lon", *(f"{name},{i},{i}" for i, name in enumerate(names, 1)))
    more = ("data.min_photos=1", "data.max_photos=[20]") if task == "geo" else ()
    tiny = ("backbone.alpha=0.05", "task.resolution=32", "data.batch_size=8", "data.workers=0", "trainer.max_epochs=1")
    quick = ("trainer.precision=32", "trainer.log_every=1", "trainer.progress_bar=false", "logger.images=0")
    content = execute([f"task={task}", f"data.root={root}", *tiny, *quick, *more, f"paths.runs={tmp_path / 'runs'}"])
    assert content["state"] == "finished"
    told = r"^data: .* train, \d+ val images, .*a random fifth for val \(splits\.json\) \(data=\w+\)$"
    assert re.search(told, capsys.readouterr().out, flags=re.M)
    kept = json.loads((root / "splits.json").read_text())
    assert all(kept.values())
