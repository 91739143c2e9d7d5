"""Shards of boxes and of face attributes: the same samples as from files, mosaics of a stream, and what is refused."""

import json
import pickle
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backbones.errors import UserError
from data.base import SPLITS, SuiteData
from data.classification import ImageSet
from data.detection import DetectionSet
from data.faces import CelebAData
from data.layouts import recognize
from data.shards.detection import ShardDetectionData
from data.shards.faces import ShardFacesData
from data.shards.write import write_shards
from tasks.run import execute
from tests.conftest import command
from tests.data.test_detection import coco_data
from tests.data.test_shards import TINY, image, write_shard
from tests.tasks.engine.test_run import bad_input

READ: dict[str, Any] = {"train": "train-*.tar", "val": "val-*.tar", "train_count": None, "shuffle": 5, "cache_gb": 0}
PLAIN: dict[str, Any] = {"crop": False, "flip": False, "photometric": 0.0, "mosaic": 0.0, "cache_images": False}


def written(data: SuiteData, root: Path) -> Path:
    for split in SPLITS[:2]:
        write_shards(data.shard_rows(split), root, split, size=6, seed=0 if split == "train" else None)
    (root / "classes.txt").write_text("\n".join(data.labels))
    return root


@pytest.fixture(scope="module")
def boxes(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(coco_data(scenes), tmp_path_factory.mktemp("boxes"))


@pytest.fixture(scope="module")
def attributes(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(CelebAData(str(faces), 32, workers=0), tmp_path_factory.mktemp("attributes"))


def box_data(root: Path, **settings: Any) -> ShardDetectionData:
    more = {"classes": "classes.txt", "workers": 0, "batch_size": 4, "mosaic": 0.0}
    return ShardDetectionData(str(root), 64, **{**READ, **more, **settings})


def face_data(root: Path, **settings: Any) -> ShardFacesData:
    more = {"classes": "classes.txt", "workers": 0, "batch_size": 4}
    return ShardFacesData(str(root), 32, **{**READ, **more, **settings})


def same(one: Any, other: Any) -> None:
    for name in ("images", "boxes", "labels", "sizes"):
        if hasattr(one, name):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


def key(image: Tensor, labels: Any) -> tuple[bytes, tuple[int, ...]]:
    return image.contiguous().numpy().tobytes(), tuple(np.asarray(labels).tolist())


def test_boxes_are_those_of_the_files(scenes: Path, boxes: Path) -> None:
    shards, files = box_data(boxes, **PLAIN), coco_data(scenes, **PLAIN)
    shards.check()
    for one, other in zip(shards.val_dataloader(), files.val_dataloader(), strict=True):
        same(one, other)
        assert one.image_ids == other.image_ids
    for ours, theirs in zip(shards.records("val"), files.records("val"), strict=True):
        for column in ("boxes", "labels", "areas", "crowd", "difficult"):
            np.testing.assert_array_equal(getattr(ours, column), getattr(theirs, column))
    dataset = files.dataset("train")
    assert isinstance(dataset, DetectionSet)
    wanted = Counter(key(s["image"], s["labels"]) for s in (dataset[i] for i in range(len(dataset))))
    found = Counter(
        key(image, labels[labels >= 0])
        for batch in shards.train_dataloader()
        for image, labels in zip(batch.images, batch.labels, strict=True)
    )
    assert found == wanted


def test_attributes_are_those_of_the_files(faces: Path, attributes: Path) -> None:
    shards, files = face_data(attributes), CelebAData(str(faces), 32, workers=0, batch_size=4)
    shards.check()
    assert shards.labels == files.labels
    for one, other in zip(shards.val_dataloader(), files.val_dataloader(), strict=True):
        same(one, other)
        assert one.rows == other.rows
    found = [tuple(row) for batch in shards.train_dataloader() for row in batch.labels.tolist()]
    dataset = files.dataset("train")
    assert isinstance(dataset, ImageSet)
    assert Counter(found) == Counter(tuple(np.asarray(s.label).tolist()) for s in dataset.samples)


def test_attributes_that_nobody_knows(tmp_path: Path) -> None:
    for split in SPLITS[:2]:
        samples = [{"jpg": image(i), "json": b'{"attributes": {"hat": %d}}' % (i % 2)} for i in range(4)]
        write_shard(tmp_path / f"{split}-0.tar", [*samples, {"jpg": image(5), "json": b'{"attributes": {"beard": 1}}'}])
    data = face_data(tmp_path, classes=None)
    assert data.labels == ["beard", "hat"]
    rows = [row for batch in data.val_dataloader() for row in batch.labels.tolist()]
    assert rows == [[-1, 0], [-1, 1], [-1, 0], [-1, 1], [1, -1]]
    assert len(data.train_dataloader()) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_mosaics_depend_on_seed_and_epoch_alone(workers: int, boxes: Path) -> None:
    """Of images of the same epoch and reader, so that a run that resumes sees the same."""
    whole, resumed = (box_data(boxes, mosaic=1.0, batch_size=2, workers=workers) for _ in range(2))
    loader = whole.train_dataloader()
    epochs = [list(loader) for _ in range(2)]
    resumed.epoch, resumed.batches_done = 1, 3
    for one, other in zip(resumed.train_dataloader(), epochs[1][3:], strict=True):
        same(one, other)
    shown = [int((batch.labels >= 0).sum()) for batch in epochs[0]]
    assert sum(shown[2:]) > 1.3 * sum(shown[:2]) * len(shown[2:]) / 2  # the first images of a reader are alone


@pytest.mark.parametrize("workers", [0, 1])
def test_the_end_of_a_training_is_without_mosaics(workers: int, boxes: Path) -> None:
    counts = {}
    for share, done in ((1.0, 0.5), (1.0, 0.9), (0.0, 0.9)):
        data = box_data(boxes, **PLAIN | {"mosaic": share, "workers": workers})
        data.done = partial(float, done)
        counts[share, done] = sum(int((batch.labels >= 0).sum()) for batch in data.train_dataloader())
    assert counts[1.0, 0.9] == counts[0.0, 0.9] < counts[1.0, 0.5]


def test_loaders_can_be_started_elsewhere(boxes: Path, attributes: Path) -> None:
    for data in (box_data(boxes, mosaic=1.0), face_data(attributes)):
        stream = pickle.loads(pickle.dumps(data.train_dataloader().dataset))
        assert len(list(stream)) == len(data.train_dataloader()) * 4


def test_the_command_and_what_trains_on_its_shards(scenes: Path, faces: Path, tmp_path: Path) -> None:
    demos = {
        "detection": ["data=demo_scenes", f"data.root={scenes}", "data.train=24", "data.val=8"],
        "faces": ["data=celeba", f"data.root={faces}"],
    }
    for task, demo in demos.items():
        out = tmp_path / task
        result = command("shards", f"task={task}", *demo, f"output={out}", "shard_images=8")
        assert result.returncode == 0, result.stderr
        assert f"train by: python -m tasks.run task={task} data=" in result.stdout
        option = {"detection": "box_shards", "faces": "face_shards"}[task]
        assert recognize(out, f"_{task}").option == option
        where = [f"paths.runs={tmp_path / 'runs'}", "name=shards", "data.workers=1", "logger.images=0"]
        content = execute([*TINY, *where, f"task={task}", f"data.root={out}"])
        assert content["state"] == "finished"
        assert {"detection": "ap50", "faces": "map"}[task] in content["metrics"]


OBJECT = {"label": "car", "box": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({}, "without a .json that lists objects"),
        ({"objects": [{"box": [1, 2, 3, 4]}]}, "without a .json that lists objects"),
        ({"objects": [3]}, "without a .json that lists objects"),
        ({"objects": [OBJECT | {"label": "boat"}]}, "there is no class boat"),
        ({"objects": [OBJECT | {"box": [1, 2, 3]}]}, "an object without a box of four numbers"),
        ({"objects": [OBJECT | {"box": None}]}, "an object without a box of four numbers"),
        ({"objects": [OBJECT | {"box": [3, 2, 1, 4]}]}, "a box that is not left, top, right, bottom"),
        ({"objects": [OBJECT | {"box": [0, 0, 1e99, 1]}]}, "a box that is not left, top, right, bottom"),
        ({"objects": [OBJECT | {"area": "many"}]}, "an object without a box of four numbers"),
    ],
)
def test_a_sample_that_is_not_whole(facts: dict[str, Any], words: str, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("car\nvan")
    good = {"jpg": image(0), "json": json.dumps({"objects": [OBJECT]}).encode()}
    rows = [{"jpg": image(1), "json": json.dumps(facts).encode()}, *[good] * 4]
    for split in SPLITS[:2]:
        write_shard(tmp_path / f"{split}-0.tar", rows)
    (batch,) = box_data(tmp_path, max_bad=0.2).train_dataloader()
    ((name, reason),) = batch.bad
    assert name.endswith("photos/000000")
    assert words in reason
    with pytest.raises(UserError, match="1 of 5 rows cannot be used: 1 "):
        box_data(tmp_path, max_bad=0.1).dataset("val")


@pytest.mark.parametrize(
    "facts", [{}, {"attributes": {"hat": 2}}, {"attributes": [1, 0]}, {"attributes": {"scarf": 1}}]
)
def test_a_face_that_is_not_whole(facts: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("hat\nbeard")
    good = {"jpg": image(0), "json": b'{"attributes": {"hat": 1, "beard": -1}}'}
    for split in SPLITS[:2]:
        write_shard(tmp_path / f"{split}-0.tar", [{"jpg": image(1), "json": json.dumps(facts).encode()}, *[good] * 4])
    (batch,) = face_data(tmp_path, max_bad=0.2).train_dataloader()
    ((_, reason),) = batch.bad
    assert reason in ("without a .json of attributes that are 1 or 0", "there is no attribute scarf")


def test_what_a_stream_cannot_do(boxes: Path, attributes: Path) -> None:
    with pytest.raises(UserError, match=r"data\.balance draws images by their classes"):
        box_data(boxes, balance=0.1)
    with pytest.raises(UserError, match=r"data\.labelled_fraction and data\.unlabelled_folder need images as files"):
        face_data(attributes, labelled_fraction=0.5)
    with pytest.raises(UserError, match=r"this task measures on shards that are on disk"):
        box_data(boxes, val="http://localhost/val-0.tar").dataset("val")


def test_shards_are_not_checked(boxes: Path) -> None:
    result = command("check", "task=detection", "data=box_shards", f"data.root={boxes}")
    bad_input(result, "shards are not checked: only data whose images are files")
