"""Images by name, and folders that are written completely or not at all."""

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from backbones.errors import UserError
from data.files import atomic_folder, find_images, images_in
from data.images import read_image


def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path: Path) -> None:
    """In a container, each process has the same number."""
    for end in ("part", "old"):
        (tmp_path / f".made.{os.getpid()}.{end}").mkdir()
        (tmp_path / f".made.{os.getpid()}.{end}" / "b").touch()
    for text in ("first", "second"):
        with atomic_folder(tmp_path / "made", overwrite=True) as folder:
            (folder / "a").write_text(text)
        assert (tmp_path / "made" / "a").read_text() == text
    assert len(list(tmp_path.iterdir())) == 3


def test_the_old_folder_is_in_place_while_the_new_one_reaches_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, flush = tmp_path / "made", os.fsync
    seen: list[str | None] = []

    def fsync(descriptor: int) -> None:
        seen.append((target / "a").read_text() if target.exists() else None)
        flush(descriptor)

    target.mkdir()
    (target / "a").write_text("old")
    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_folder(target, overwrite=True) as folder:
        (folder / "a").write_text("new")
    assert seen == ["old", "old", "new"]  # the file, the folder, and the folder that holds it
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_what_is_not_found_or_not_read_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.HEIC").touch()
    for wanted in (tmp_path / "a.HEIC", tmp_path, tmp_path / "*.HEIC"):
        with pytest.raises(UserError, match=r"files are not read: convert (it|them) to JPEG"):
            find_images(str(wanted))
    with pytest.raises(UserError, match="input= is missing: give a file, a folder or a quoted glob"):
        find_images(None)


def test_what_is_not_read_beside_images_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "phone").mkdir()
    for name in ("a.jpg", "phone/b.HEIC", "phone/c.heic", "phone/._d.heic"):
        (tmp_path / name).touch()
    assert find_images(str(tmp_path)) == [tmp_path / "a.jpg"]
    assert caplog.messages == [f"{tmp_path}: 2 .heic files are not read: convert them to JPEG"]
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"2 \.heic files are not read"):
        find_images(str(tmp_path))


def test_links_to_folders_are_not_followed_but_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("set/cat/1.jpg", "set/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "elsewhere/2.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    root = tmp_path / "set"
    for link in ("more", "again"):
        (root / "cat" / link).symlink_to(tmp_path / "elsewhere")
    assert images_in(root) == images_in(root) == [root / "cat" / "1.jpg"]
    first = root / "cat" / "again"
    assert caplog.messages == [f"{root}: links to folders are not followed: 2, of which the first is {first}"]
    assert images_in(first) == [first / "2.jpg"]  # one that is named


@pytest.mark.parametrize("name", ["a.jfif", "a.jpe", "a.gif"])
def test_less_usual_suffixes(name: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    several: dict[str, Any] = {"save_all": True, "append_images": frames[1:]} if name == "a.gif" else {}
    frames[0].save(tmp_path / name, **several)
    assert images_in(tmp_path) == [tmp_path / name]
    pixels, size = read_image(tmp_path / name, 8)
    assert size == (8, 8)
    assert pixels[0].min() > 200  # the first frame
