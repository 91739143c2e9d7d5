"""Lists, tables and annotations that are pipes or devices: a pipe sends nothing, a device never ends."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backbones.errors import UserError
from data.dogs import read_box, read_list
from data.geo.cells import Partition
from data.geo.positions import read_csv
from data.imagenet import read_synsets
from data.layouts.detection import coco_files, image_folder, yolo_splits
from data.layouts.folder import Folder
from data.table import read_table
from data.tar import BadShard, read_member, read_samples
from data.text import read_json, read_lines, read_names, read_plain_yaml
from data.voc import read_voc
from tests.conftest import make_irregular

READERS: dict[str, Callable[[Path], Any]] = {
    "lines": read_lines,
    "names": read_names,
    "json": read_json,
    "yaml": read_plain_yaml,
    "table": read_table,
    "positions": lambda path: read_csv(path, path.parent, 0),
    "partition": Partition.load,
    "list of dogs": read_list,
    "synsets": read_synsets,
}


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("reader", READERS)
def test_what_never_ends_is_not_read(reader: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    make_irregular(path, kind)
    with pytest.raises(UserError, match=r"not a regular file|is not a file") as error:
        READERS[reader](path)
    assert "\n" not in str(error.value)


def test_annotations_and_shards_that_are_pipes(tmp_path: Path) -> None:
    for name in ("a.xml", "a.tar"):
        os.mkfifo(tmp_path / name)
    assert read_box(tmp_path / "a.xml") is None
    assert read_voc(tmp_path, tmp_path) == []
    with pytest.raises(BadShard, match="not a regular file"):
        list(read_samples(str(tmp_path / "a.tar")))
    with pytest.raises(FileNotFoundError):
        read_member(tmp_path / "a.tar" / "a.jpg")


def test_layouts_are_recognised_by_files_alone(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    for name in ("train.json", "train.jpg", "labels/train.txt"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "val.json").symlink_to("/dev/zero")
    folder = Folder(tmp_path)
    assert folder.files(".json") == []
    assert (coco_files(folder), image_folder(folder), yolo_splits(folder, {})) == ({}, None, {})
