"""Which files a prediction reads and where it writes."""

from pathlib import Path

import pytest

from backbones.errors import UserError
from tasks.predict import find_images, output_paths
from tests.conftest import command


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
    roundabout = find_images("in/*/../a.*")  # each of two files by two ways
    assert len(roundabout) == 2
    for path in output_paths(roundabout, Path("out")):
        assert path.parent == Path("out")


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(b"hello")
    (tmp_path / "a.jpg").write_bytes(b"")
    result = command("predict", f"ckpt={tmp_path / 'x.ckpt'}", f"input={tmp_path / 'a.jpg'}")
    assert result.returncode == 2
    assert result.stderr.strip().endswith("it is damaged, or no checkpoint")
    assert "weights_only" not in result.stderr
