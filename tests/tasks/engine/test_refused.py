"""What a run refuses before its first step, or cannot write: status 2, and one line that says so."""

import json
import os
import resource
import subprocess
from pathlib import Path

import pytest

from backbones.errors import UserError
from tasks.run import execute
from tests.conftest import TINY, command, spawn


def settings(scenes: Path, runs: Path, *more: str) -> list[str]:
    return [*TINY, "data=demo_scenes", f"data.root={scenes}", f"paths.runs={runs}", *more]


def bad_input(result: subprocess.CompletedProcess[str], words: str) -> None:
    """Status 2, and one line that says so."""
    assert result.returncode == 2, result.stderr
    (line,) = [x for x in result.stderr.splitlines() if x.startswith("error: ")]
    assert words in line
    assert "Traceback" not in result.stderr


def test_missing_data(tmp_path: Path) -> None:
    bad_input(command("run", "data=coco", f"data.root={tmp_path / 'no'}"), "give the folder of your data")


def test_an_annotation_file_that_is_not_json(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.json").write_text("{")
    paths = [f"data.{s}_json={tmp_path / 'torn.json'}" for s in ("train", "val")]
    images = [f"data.{s}_images={scenes / s}" for s in ("train", "val")]
    bad_input(command("run", "data=coco", f"data.root={tmp_path}", *paths, *images), "is not valid JSON")


def test_too_many_unreadable_images(scenes: Path, tmp_path: Path) -> None:
    root = tmp_path / "scenes"
    (root / "train").mkdir(parents=True)
    (root / "val").symlink_to(scenes / "val")
    for name in ("train.json", "val.json"):
        (root / name).symlink_to(scenes / name)
    for i, image in enumerate(sorted((scenes / "train").iterdir())):
        (root / "train" / image.name).write_bytes(image.read_bytes() if i % 3 else b"")
    files = [f"data.{s}_{k}={s}{e}" for s in ("train", "val") for k, e in (("json", ".json"), ("images", ""))]
    tiny = [a for a in TINY if a not in ("data.train=24", "data.val=8")]
    result = command("run", "data=coco", f"data.root={root}", *files, *tiny, f"paths.runs={tmp_path / 'runs'}")
    bad_input(result, "train images cannot be read, more than data.max_bad=0.01 allows")


def test_an_output_folder_that_cannot_be_written(scenes: Path, tmp_path: Path) -> None:
    # /proc refuses new folders to everyone, root too
    bad_input(command("run", *settings(scenes, Path("/proc/runs"))), "cannot be created")


def test_a_full_disk_keeps_the_last_checkpoint(scenes: Path, tmp_path: Path) -> None:
    """The process may write files of 1 MB at most, so that the first checkpoint does not fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        result = command("run", *settings(scenes, tmp_path, "name=full", "logger.images=0"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    bad_input(result, "cannot be written: File too large")
    assert list((tmp_path / "detection" / "full" / "checkpoints").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount the small file system that this fills")
def test_no_space_left(scenes: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let root mount")
    try:
        result = spawn("run", *settings(scenes, small, "name=full", "logger.images=0"))
        bad_input(result, "cannot be written: No space left on device")
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


@pytest.mark.parametrize(
    ("options", "gone", "words"),
    [
        (["task=dogs", "data=dogs"], "test_list.mat", "there is no list"),
        (["task=classification", "data=folders", "data.train=Images", "data.val=vall"], None, "there is no folder"),
        (["task=classification", "data=folders", "data.train=Images", "teacher=absent.onnx"], None, "absent.onnx"),
        (
            ["task=embedding", "data=identities", "data.train=Images", "data.val=Images", "data.pairs=no.txt"],
            None,
            "no",
        ),
    ],
)
def test_every_split_is_opened_before_a_run_folder_is_made(
    options: list[str], gone: str | None, words: str, dogs: Path, tmp_path: Path
) -> None:
    root = tmp_path / "dogs"
    root.mkdir()
    for path in dogs.iterdir():
        if path.name != gone:
            (root / path.name).symlink_to(path)
    (root / "val").symlink_to(dogs / "Images")
    runs = tmp_path / "runs"
    tiny = ["backbone.alpha=0.25", "task.resolution=32", "data.workers=0"]
    with pytest.raises(UserError, match=words):
        execute([*options, *tiny, f"data.root={root}", f"paths.runs={runs}"])
    assert not runs.exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["data.val_json=absent.json"], "there is no annotation file"),
        (["data.train_json=other.json"], "has other categories"),
        (["data.test_json=absent.json"], "there is no annotation file"),
        (["ckpt=absent"], "there is no checkpoint"),
        (["backbone.weights=absent.h5"], "absent.h5"),
    ],
)
def test_no_run_folder_is_made_for_what_is_bad(more: list[str], words: str, scenes: Path, tmp_path: Path) -> None:
    content = json.loads((scenes / "val.json").read_text())
    content["categories"][0]["name"] = "other"
    (tmp_path / "other.json").write_text(json.dumps(content))
    files = ["data=coco", f"data.root={tmp_path}", "logger.images=0"]
    for split in ("train", "val"):
        files += [f"data.{split}_json={scenes / split}.json", f"data.{split}_images={scenes / split}"]
    runs = tmp_path / "runs"
    overrides = [*files, *more, "backbone.alpha=0.25", f"paths.runs={runs}", "data.workers=0"]
    with pytest.raises(UserError, match=words):
        execute(overrides)
    assert not runs.exists()
