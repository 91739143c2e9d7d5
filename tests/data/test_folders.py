"""Folders of classes."""

from pathlib import Path

import pytest

from data.folders import class_folders
from tests.data.detection_sets import photos


def test_images_beside_class_folders_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for folder in ("a", "b", "."):
        photos(tmp_path / folder, ["7", "8"])
    (tmp_path / ".9.jpg").touch()
    assert {name: len(images) for name, images in class_folders(tmp_path).items()} == {"a": 2, "b": 2}
    words = "left out 2 images that are in no class folder: move them into one; the first is 7.jpg"
    assert caplog.messages == [f"{tmp_path}: {words}"]
    class_folders(tmp_path, train=False)
    assert len(caplog.messages) == 1
