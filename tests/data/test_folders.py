"""Folders of classes."""

from pathlib import Path

import pytest

from data.folders import images_by_folder
from tests.data.detection_sets import photos
from tests.data.test_layouts_images import counts, opened, tree


def test_images_beside_class_folders_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for folder in ("a", "b", "."):
        photos(tmp_path / folder, ["7", "8"])
    (tmp_path / ".9.jpg").touch()
    assert {name: len(images) for name, images in images_by_folder(tmp_path).items()} == {"a": 2, "b": 2}
    words = "left out 2 of 6 images, which are in no class folder: move them into one; the first is 7.jpg"
    assert caplog.messages == [f"{tmp_path}: {words}"]
    images_by_folder(tmp_path, train=False)
    assert len(caplog.messages) == 1


def test_class_folders_without_images_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree(tmp_path, "train", classes="abc")
    tree(tmp_path, "val", classes="b")  # one is enough to measure
    for name in ("train/not sure", "val/not sure", "val/a"):
        (tmp_path / name).mkdir()
    _, data = opened("classification", tmp_path)
    assert (data.labels, counts(data)) == (["a", "b", "c"], [15, 5, 5])
    told = [message for message in caplog.messages if "no images" in message]
    where = tmp_path / "train"
    assert told == [f"{where}: left out 1 of 4 class folders, which have no images; the first is not sure"]
