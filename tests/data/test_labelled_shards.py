"""Shards of boxes and of face attributes: the same samples as from files, mosaics of a stream, and what is refused."""

import gzip
import io
import json
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from backbones.errors import UserError
from data.base import SPLITS, SuiteData, end_processes
from data.classification import ImageSet
from data.detection import DetectionSet
from data.faces import CelebAData
from data.layouts import recognize
from data.seeding import Progress
from data.shards.detection import DetectionStream, ShardDetectionData
from data.shards.faces import ShardFacesData
from data.shards.write import write_shards
from tasks.run import execute
from tests.conftest import command
from tests.data.test_detection import coco_data
from tests.data.test_shards import TINY, image, load_labels, write_shard
from tests.tasks.engine.test_run import bad_input

READ: dict[str, Any] = {"train": "train-*.tar", "val": "val-*.tar", "train_count": None, "shuffle": 5, "cache_gb": 0}
PLAIN: dict[str, Any] = {"crop": False, "flip": False, "photometric": 0.0, "mosaic": 0.0, "cache_images": False}


def written(data: SuiteData, root: Path) -> Path:
    for split in SPLITS[:2]:
        write_shards(data.sample_sources(split), root, split, size=6, seed=0 if split == "train" else None)
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
    more = {"classes": "classes.txt", "workers": 0, "batch_size": 4, "cache_images": False}
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
    shards, files = face_data(attributes), CelebAData(str(faces), 32, workers=0, batch_size=4, cache_images=False)
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
    """They combine images of one epoch and reader, so that a resumed run sees the same ones."""
    whole, resumed = (box_data(boxes, mosaic=1.0, crop=True, batch_size=2, workers=workers) for _ in range(2))
    loader = whole.train_dataloader()
    epochs = [list(loader) for _ in range(2)]
    resumed.epoch, resumed.batches_done = 1, 3
    for one, other in zip(resumed.train_dataloader(), epochs[1][3:], strict=True):
        same(one, other)
    shown = [int((batch.labels >= 0).sum()) for batch in epochs[0]]
    assert sum(shown[2:]) > 1.3 * sum(shown[:2]) * len(shown[2:]) / 2  # a reader's first images are without partners


@pytest.mark.parametrize(("workers", "world_size"), [(0, 1), (1, 1), (1, 2)])
def test_the_end_of_a_training_is_without_mosaics(workers: int, world_size: int, boxes: Path) -> None:
    """Persistent loader processes, forked or (for several devices) spawned, learn how far the training is."""
    data = box_data(boxes, **PLAIN | {"mosaic": 1.0, "workers": workers})
    data.trainer = SimpleNamespace(global_rank=0, world_size=world_size, accelerator=None)  # type: ignore[assignment]
    loader = data.train_dataloader()
    counts = []
    for done in (0.5, 0.9, 0.5):
        data.progress = partial(Progress, done)
        counts.append(sum(int((batch.labels >= 0).sum()) for batch in loader))
    end_processes(loader)
    plain = box_data(boxes, **PLAIN)
    whole = sum(int((batch.labels >= 0).sum()) for batch in plain.train_dataloader())
    assert counts[1] <= whole / world_size * 1.4 < min(counts[0], counts[2])


@pytest.mark.parametrize("sharded", [False, True])
def test_long_trainings_have_random_crops(sharded: bool, scenes: Path, boxes: Path) -> None:
    def shown(crop: bool | str, epochs: float) -> Tensor:
        given = PLAIN | {"crop": crop}
        data = box_data(boxes, **given, workers=1) if sharded else coco_data(scenes, **given)
        data.progress = partial(Progress, 0.02, epochs)
        loader = data.train_dataloader()
        found = torch.cat([batch.boxes.flatten() for batch in loader])
        end_processes(loader)
        return found

    plain, cropped = shown(False, 100), shown(True, 100)
    assert plain.shape != cropped.shape or not torch.allclose(plain, cropped)
    torch.testing.assert_close(shown("auto", 100), cropped)
    torch.testing.assert_close(shown("auto", 99), plain)


def test_kept_images_are_larger_for_crops(scenes: Path) -> None:
    dataset = coco_data(scenes, crop="auto", cache_images=True).dataset("train")
    assert isinstance(dataset, DetectionSet)
    for epochs, side in ((0, 64), (100, 96), (99, 64)):
        dataset.progress = Progress(0.0, epochs)
        dataset[0]
        assert dataset.cache is not None
        assert min(dataset.cache[0][1].shape[1:]) == side


def test_images_that_wait_for_a_mosaic_are_small(tmp_path: Path) -> None:
    """And none wait where there are no mosaics."""
    sample = {"png": png(900), "json": b'{"objects": [{"label": "car", "box": [1, 2, 300, 400]}]}'}
    for split in SPLITS[:2]:
        write_shard(tmp_path / f"{split}-0.tar", [sample] * 6)
    (tmp_path / "classes.txt").write_text("car")
    for mosaic in (1.0, 0.0):
        stream = box_data(tmp_path, mosaic=mosaic).train_dataloader().dataset
        assert isinstance(stream, DetectionStream)
        list(stream)
        sides = [min(image.shape[1:]) for image, _, _ in stream.recent]
        assert sides == [stream.images.read_side(False)] * len(sides)
        assert bool(sides) == bool(mosaic)


def png(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(buffer, "PNG")
    return buffer.getvalue()


def test_the_command_and_what_trains_on_its_shards(scenes: Path, faces: Path, tmp_path: Path) -> None:
    demos = {
        "detection": ["data=demo_scenes", f"data.root={scenes}", "data.train=24", "data.val=8"],
        "faces": ["data=celeba", f"data.root={faces}"],
    }
    for task, demo in demos.items():
        out = tmp_path / task
        result = command("shards", f"task={task}", *demo, f"output={out}", "shard_images=8")
        assert result.returncode == 0, result.stderr
        assert f"train with: python -m tasks.run task={task} data=" in result.stdout
        option = {"detection": "box_shards", "faces": "face_shards"}[task]
        layout = recognize(out, f"_{task}")
        assert (layout.option, layout.settings["classes"]) == (option, "classes.txt")
        where = [f"paths.runs={tmp_path / 'runs'}", "name=shards", "data.workers=1", "logger.images=0"]
        content = execute([*TINY, *where, f"task={task}", f"data.root={out}"])
        assert content["state"] == "finished"
        assert {"detection": "ap50", "faces": "map"}[task] in content["metrics"]
        assert load_labels(tmp_path / "runs" / task / "shards") == (out / "classes.txt").read_text().splitlines()


OBJECT = {"label": "car", "box": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({}, "without a .json that lists objects"),
        ({"objects": [{"box": [1, 2, 3, 4]}]}, "without a .json that lists objects"),
        ({"objects": [3]}, "without a .json that lists objects"),
        ({"objects": {}}, "without a .json that lists objects"),
        ({"objects": [OBJECT | {"label": "boat"}]}, "there is no class boat"),
        ({"objects": [OBJECT | {"label": ""}]}, "there is no class"),
        ({"objects": [OBJECT | {"box": [1, 2, 3]}]}, "an object without a box of four numbers"),
        ({"objects": [OBJECT | {"box": None}]}, "an object without a box of four numbers"),
        ({"objects": [OBJECT | {"box": [3, 2, 1, 4]}]}, "a box that is not left, top, right, bottom"),
        ({"objects": [OBJECT | {"box": [0, 0, 1e99, 1]}]}, "a box that is not left, top, right, bottom"),
        ({"objects": [OBJECT | {"area": "many"}]}, "or whose area is none"),
        ({"objects": [OBJECT | {"area": -5}]}, "or an area below 0"),
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


def test_attributes_with_the_names_of_numbers(tmp_path: Path) -> None:
    """They are names, not indices of attributes; true counts as 1, and 0.0 and -1 as 0."""
    (tmp_path / "classes.txt").write_text("1\n2\n3")
    for split in SPLITS[:2]:
        write_shard(
            tmp_path / f"{split}-0.tar", [{"jpg": image(0), "json": b'{"attributes": {"1": true, "2": 0.0, "3": -1}}'}]
        )
    (batch,) = face_data(tmp_path).val_dataloader()
    assert batch.labels.tolist() == [[1, 0, 0]]


def test_names_that_cannot_be_written_or_read_as_numbers(tmp_path: Path) -> None:
    labels = ["9" * 5000, "\ud800", "10", "9", "van"]
    samples = [
        {"jpg": image(0), "json": json.dumps({"objects": [OBJECT | {"label": name}]}).encode()} for name in labels
    ]
    for split in SPLITS[:2]:
        write_shard(tmp_path / f"{split}-0.tar", samples)
    assert box_data(tmp_path, classes=None).labels == ["van", "9", "10", "9" * 5000]


def test_compressed_shards_to_measure_on(boxes: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes((boxes / "classes.txt").read_bytes())
    for path in boxes.glob("*.tar"):
        (tmp_path / path.name).write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(UserError, match=r"data\.val: .*val-00000\.tar is compressed; unpack it"):
        box_data(tmp_path).check()


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
