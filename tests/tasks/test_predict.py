"""Which files a prediction reads and where it writes."""

import json
from pathlib import Path

import pytest
from PIL import Image

from backbones.errors import UserError
from tasks.predict import find_images, output_paths
from tests.conftest import command, untrained


def test_a_name_that_exists_is_no_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["[x].jpg", "x.jpg", "a*b.jpg", "aab.jpg", "why?.jpg"]
    for name in names:
        Path(name).touch()
    for name in names:
        assert find_images(name) == [Path(name)]
    assert find_images("[ax].jpg") == [Path("x.jpg")]
    assert find_images(f"{tmp_path}/a*.jpg") == [tmp_path / "a*b.jpg", tmp_path / "aab.jpg"]
    Path("[folder]").mkdir()
    Path("[folder]", "y.jpg").touch()
    assert find_images("[folder]") == [Path("[folder]/y.jpg")]
    with pytest.raises(UserError, match="there is no image of that name"):
        find_images("[y].jpg")


def test_every_file_has_an_output_of_its_own_below_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.jpg", "in/a.png", "in/b/a.jpg", "in/b.c/a.jpg"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    files = find_images("in")
    found = output_paths(files, Path("out"))
    assert [str(path) for path in found] == [f"out/{file.relative_to('in')}.png" for file in files]
    assert len(set(found)) == 4
    roundabout = find_images("in/*/../a.*")  # finds each of two files by two paths
    assert len(roundabout) == 2
    for path in output_paths(roundabout, Path("out")):
        assert path.parent == Path("out")


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(b"hello")
    (tmp_path / "a.jpg").write_bytes(b"")
    result = command("predict", f"ckpt={tmp_path / 'x.ckpt'}", f"input={tmp_path / 'a.jpg'}")
    assert result.returncode == 2
    assert result.stderr.strip().endswith("it is damaged, or not a checkpoint")
    assert "weights_only" not in result.stderr


@pytest.mark.parametrize("task", ["dogs", "detection"])
def test_images_of_odd_shapes(task: str, scenes: Path, dogs: Path, tmp_path: Path) -> None:
    """A side may be longer than JPEG allows; only the drawing is smaller then."""
    few = {
        "dogs": ("data=dogs", f"data.root={dogs}"),
        "detection": ("data.train=24", "data.val=8", f"data.root={scenes}"),
    }
    run = untrained(tmp_path / "run", f"task={task}", "backbone.alpha=0.25", "task.resolution=64", *few[task])
    shapes = {"dot": (1, 1), "column": (1, 9000), "row": (70_000, 2), "grey": (9, 7), "clear": (7, 9)}
    for name, size in shapes.items():
        path = tmp_path / "in" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new({"grey": "LA", "clear": "RGBA"}.get(name, "L"), size).save(path)
    output = tmp_path / "out"
    result = command("predict", f"ckpt={run}", f"input={tmp_path / 'in'}", f"output={output}", "threshold=0")
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    assert {Path(line["file"]).stem for line in lines} == shapes.keys()
    for line in lines:
        with Image.open(line["annotated"]) as image:
            image.load()
