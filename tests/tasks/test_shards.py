"""Data sets as shards: what trains on them sees what was in the files."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from backbones.errors import UserError
from data.demo.earth import write_earth
from data.dogs import DogsData
from data.geo.positions import read_csv
from data.image_file import BadImage
from data.shards.classification import ShardClassificationData, box_of
from data.shards.write import SampleSource, write_shards
from data.tar import ShardSample, read_samples
from tasks.engine.config import load_config
from tasks.engine.layout import with_recognized_layout
from tasks.engine.start import build_data
from tasks.shards import write
from tests.conftest import ROOT, command, png_header, wait_until
from tests.tasks.engine.test_run import bad_input

READ = {"min_scale": 0.35, "workers": 0, "batch_size": 8}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def test_shards_of_dogs_show_what_the_files_show(dogs: Path, tmp_path: Path) -> None:
    """The same images, cropped to the dog's box, and the same classes; training images in another order."""
    arguments = ["task=dogs", "data=dogs", f"data.root={dogs}", "data.box=true", "shard_images=8"]
    result = command("shards", *arguments, f"output={tmp_path / 'one'}")
    assert result.returncode == 0, result.stderr
    assert "train with: python -m tasks.run task=classification data=shards" in result.stdout
    names = {"train": "train-*.tar", "val": "val-*.tar", "classes": "classes.txt", "train_count": 36}
    written = ShardClassificationData(str(tmp_path / "one"), 64, **names, shuffle=0, cache_gb=0, **READ)  # type: ignore[arg-type]
    files = DogsData(str(dogs), 64, box=True, **READ)  # type: ignore[arg-type]
    assert written.labels == files.labels
    for one, other in zip(written.val_dataloader(), files.val_dataloader(), strict=True):
        torch.testing.assert_close(one.images, other.images, rtol=0, atol=0)
        assert one.labels.tolist() == other.labels.tolist()
    order = [
        json.loads(record.files["json"])["label"]
        for path in sorted((tmp_path / "one").glob("train-*.tar"))
        for record in read_samples(str(path))
    ]
    assert sorted(order) == sorted(sample.label for sample in files.samples("train"))
    assert order != sorted(order)
    for part in (0, 1):
        result = command("shards", *arguments, f"output={tmp_path / 'two'}", f"part={part}", "of=2")
        assert result.returncode == 0, result.stderr
        assert (len(contents(tmp_path / "two")) < len(contents(tmp_path / "one"))) == (part == 0)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    bad_input(command("shards", *arguments[:4], "shard_images=9", f"output={tmp_path / 'one'}"), "of other images")
    bad_input(command("shards", *arguments, "output=x", "part=2", "of=2"), "parts count from 0")
    bad_input(command("shards", *arguments, "output=x", "splits=[train,all]"), "splits=all: choose from train")


def test_a_class_of_two_lines(tmp_path: Path) -> None:
    for name in ("a", "b\nc"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / name / "0.png")
    result = command("shards", "task=classification", f"data.root={tmp_path}", f"output={tmp_path / 'out'}")
    bad_input(result, r"the class 'b\nc' has a line break in its name, which classes.txt cannot hold")


def test_a_killed_writer_goes_on(dogs: Path, tmp_path: Path) -> None:
    """What it had written is left as it is, and in the end nothing is missing."""
    arguments = ["task=dogs", "data=dogs", f"data.root={dogs}", "shard_images=1"]
    assert command("shards", *arguments, f"output={tmp_path / 'whole'}").returncode == 0
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.shards", *arguments, f"output={killed}"], cwd=ROOT, start_new_session=True
    )
    wait_until(lambda: contents(killed), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in killed.glob("*.tar")}
    assert command("shards", *arguments, f"output={killed}").returncode == 0
    assert contents(killed) == contents(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_shards_of_places_and_what_is_left_out(tmp_path: Path) -> None:
    write_earth(tmp_path / "earth", train=20, val=4, gallery=4, size=32, generated=True)
    table = ["task=geo", "data=places", f"data.root={tmp_path / 'earth'}"]
    result = command("shards", *table, f"output={tmp_path / 'out'}", "splits=[val]", "shard_images=3")
    assert result.returncode == 0, result.stderr
    records = [r for path in sorted((tmp_path / "out").glob("val-*.tar")) for r in read_samples(str(path))]
    places = read_csv(tmp_path / "earth" / "val.csv", tmp_path / "earth", 0)
    assert [r.files["jpg"] for r in records] == [path.read_bytes() for path in places.paths]
    found = [[json.loads(r.files["json"])[key] for key in ("latitude", "longitude")] for r in records]
    assert found == places.positions.tolist()
    rows = [
        SampleSource(tmp_path / "none.jpg", {}),
        SampleSource(places.paths[0], {}),
        SampleSource(tmp_path / "earth" / "val.csv", {}),
    ]
    assert write_shards(rows, tmp_path / "few", "val", size=3, seed=None) == 1
    assert len(list(read_samples(str(tmp_path / "few" / "val-00000.tar")))) == 1


@pytest.mark.parametrize(
    ("splits", "setting"), [("train,val,test", "data.test=test-*.tar"), ("train,test", "data.val=test-*.tar")]
)
def test_the_command_that_is_printed_has_all_splits(
    splits: str, setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val", "test"):
        for name in "ab":
            (tmp_path / "in" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "in" / split / name / "0.png")
    arguments = ["task=classification", f"data.root={tmp_path / 'in'}", f"output={tmp_path / 'out'}"]
    write(load_config(with_recognized_layout([*arguments, f"splits=[{splits}]"])[0], "shards"))
    command = shlex.split(capsys.readouterr().out.partition("python -m tasks.run ")[2])
    assert setting in command
    data = build_data(load_config(command))
    data.check()
    assert isinstance(data, ShardClassificationData)
    assert data.sources["test"] == "test-*.tar"


def test_what_is_no_image_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A link in a folder of images may lead to any file, to a device that never ends or a pipe that sends nothing."""
    (tmp_path / "secret").write_text("precious")
    (tmp_path / "a.jpg").symlink_to(tmp_path / "secret")
    (tmp_path / "b.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "c.jpg")
    (tmp_path / "d.png").write_bytes(png_header(20_000, 20_000))
    image = Image.new("RGB", (8, 8), "red")
    image.save(tmp_path / "e.png")
    rows = [SampleSource(path, {}) for path in sorted(tmp_path.iterdir()) if path.suffix]
    assert write_shards(rows, tmp_path / "out", "val", size=9, seed=None) == 1
    (shard,) = (tmp_path / "out").glob("*.tar")
    assert [record.files["png"] for record in read_samples(str(shard))] == [(tmp_path / "e.png").read_bytes()]
    assert b"precious" not in shard.read_bytes()
    assert "val: 4 of 5 images are left out" in caplog.text
    for name, words in (("a.jpg", "not an image of a known format"), ("b.png", "not a regular file")):
        assert f"left out {tmp_path / name}: it is {words}" in caplog.text


@pytest.mark.parametrize(
    "box", ["[1, 2, 3]", "[3, 0, 1, 1]", '"abcd"', "[0, 0, NaN, 1]", "[0, 0, 1, Infinity]", "[-1, 0, 1, 1]", "{}"]
)
def test_a_box_that_is_none(box: str) -> None:
    with pytest.raises(BadImage, match="its box is not left, top, right, bottom"):
        box_of(ShardSample("a", {"json": f'{{"label": 0, "box": {box}}}'.encode()}))


def test_what_cannot_be_written(tmp_path: Path) -> None:
    result = command("shards", "task=multitask", f"output={tmp_path}")
    bad_input(result, "the shards of its tasks are written one task at a time")
    with pytest.raises(UserError, match="cannot be written"):
        write_shards([], Path("/proc/none"), "train", size=1, seed=None)
