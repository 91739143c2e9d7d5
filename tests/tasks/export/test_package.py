"""Folders of exports: which are found, and what they are called."""

import shutil
from pathlib import Path

import pytest

from tasks.bench import find_exports
from tasks.export.package import short_names
from tasks.export.speed import contenders
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["runs/dogs/a/export/x", "runs/dogs/a/export/y"], ["x", "y"]),
        (["runs/dogs/a/export/x", "runs/dogs/b/export/x", "y"], ["a/x", "b/x", "y"]),
        (["old/dogs/a/export/x", "new/dogs/a/export/x"], ["old/dogs/a/x", "new/dogs/a/x"]),
        (["a/export/x", "a/x"], ["export/x", "a/x"]),
    ],
)
def test_exports_are_told_apart_by_the_folders_above_them(folders: list[str], names: list[str]) -> None:
    assert short_names(map(Path, folders)) == names


def test_bench_tells_exports_of_the_same_name_apart(tmp_path: Path) -> None:
    (own,) = (ROOT / "tests" / "fixtures").glob("*/runs/*/*/export/*-onnx")
    for task in ("dogs", "cats"):
        shutil.copytree(own, tmp_path / task / "a" / "export" / own.name)
    shutil.copytree(own, tmp_path / "dogs" / "a" / "export" / f".{own.name}")  # still being written
    found = contenders(None, find_exports(tmp_path), compiled=False)
    assert [row.name for row in found] == [f"cats/a/{own.name}", f"dogs/a/{own.name}"]
