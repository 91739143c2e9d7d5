"""Files that are opened as images, whatever they are."""

import io
import tarfile
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from backbones.errors import UserError
from data.base import SuiteData
from data.boxes import center_box, random_box
from data.classification import ImageSet, Sample
from data.crops import read_crop
from data.folders import FoldersData
from data.geo.positions import exif_position, read_folder
from data.image_file import (
    MAX_PIXELS,
    ORIENTATION,
    SALVAGED,
    BadImage,
    image_size,
    limit_pixels,
    noting_salvaged,
)
from data.images import first_readable, read_image
from tests.conftest import make_irregular, png_header


@pytest.fixture(autouse=True)
def default_limit() -> Iterator[None]:
    yield
    limit_pixels(MAX_PIXELS)


def refused(path: Path, words: str, **reading: Any) -> None:
    """By each of the ways to read an image."""
    for read in (lambda: read_image(path, 32, **reading), lambda: read_crop(path, center_box, 32)):
        with pytest.raises(BadImage) as error:
            read()
        assert error.value.args[0] == str(path)
        assert words in error.value.args[1]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.tif", "a.bmp"])
@pytest.mark.parametrize("limit", [60 * 90 - 1, 60 * 90 // 4])  # Pillow only warns up to twice its own limit
def test_an_image_of_more_pixels_than_the_limit_is_not_decoded(name: str, limit: int, tmp_path: Path) -> None:
    Image.new("RGB", (90, 60)).save(tmp_path / name)
    limit_pixels(60 * 90)
    read_image(tmp_path / name, 32)
    read_crop(tmp_path / name, center_box, 32)
    limit_pixels(limit)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        refused(tmp_path / name, f"it has more pixels than max_pixels={limit} allows")
        with pytest.raises(BadImage, match="max_pixels"):
            exif_position(tmp_path / name)


def test_the_header_alone_decides(tmp_path: Path) -> None:
    """177 million pixels, of which the file has none, at the default limit."""
    (tmp_path / "a.png").write_bytes(png_header(13_300, 13_300))
    refused(tmp_path / "a.png", "more pixels than max_pixels=100000000")


@pytest.mark.parametrize("workers", [0, 1])
def test_the_limit_of_a_data_set_holds_in_its_loaders(workers: int, tmp_path: Path) -> None:
    for i, size in enumerate([(20, 20), (20, 20), (40, 40), (20, 20)]):
        for split in ("train", "val"):
            folder = tmp_path / split / "ab"[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size).save(folder / f"{i}.png")
    files: dict[str, Any] = {"train": "train", "val": "val", "workers": workers, "batch_size": 2}
    data = FoldersData(str(tmp_path), 16, max_pixels=400, **files)
    limit_pixels(MAX_PIXELS)  # as in a loader process that did not inherit it
    if not workers:
        data = FoldersData(str(tmp_path), 16, max_pixels=400, **files)
    bad = [path for batch in data.val_dataloader() for path, _ in batch.bad]
    assert [Path(path).name for path in bad] == ["2.png"]


def test_no_decoder_starts_that_a_photo_does_not_need(tmp_path: Path) -> None:
    """Pillow hands PostScript to Ghostscript, whatever the file is called."""
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n/x 1 def\n%%EOF\n"
    (tmp_path / "a.jpg").write_bytes(text)
    refused(tmp_path / "a.jpg", "it is not an image of a known format (JPEG, PNG, WEBP, BMP, TIFF, GIF)")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "huge", "name"])
def test_what_is_no_file_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    if kind == "huge":
        with path.open("wb") as file:
            file.truncate((1 << 30) + 1)
    elif kind == "name":
        path = tmp_path / "a\0.jpg"
    else:
        make_irregular(path, kind)
    words = {"huge": "it has more than 1024 MiB", "name": "null"}.get(kind, "it is not a regular file")
    refused(path, words)
    assert image_size(path) is None


def test_a_member_of_a_shard_that_is_larger_than_memory(tmp_path: Path) -> None:
    member = tarfile.TarInfo("a.jpg")
    member.size = 1 << 40
    (tmp_path / "a.tar").write_bytes(member.tobuf() + bytes(512))
    refused(tmp_path / "a.tar" / "a.jpg", "it has 1099511627776 bytes")


@pytest.mark.parametrize("kind", ["float", "int32"])
def test_images_whose_white_nobody_knows_are_refused(kind: str, tmp_path: Path) -> None:
    values = np.linspace(0, 1, 64).reshape(8, 8)
    pixels = values.astype(np.float32) if kind == "float" else (values * 2e9).astype(np.int32)
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    refused(tmp_path / "a.tif", "nothing says which of its 32-bit values is white; convert it to 8 or 16 bits")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled(suffix: str, tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / f"a.{suffix}")
    image, _ = read_image(tmp_path / f"a.{suffix}", 8)
    torch.testing.assert_close(image[0], torch.from_numpy((ramp >> 8).astype(np.uint8)))


@pytest.mark.parametrize(
    "box", [(-5.0, -5.0, 200.0, 200.0), (50.0, 50.0, 60.0, 60.0), (3.0, 3.0, 3.0, 9.0), (-9.0, 2.0, -1.0, 8.0)]
)
def test_a_box_outside_of_its_image_is_cropped_inside(box: tuple[float, float, float, float], tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    samples = [Sample(tmp_path / "a.png", 0, box)]
    for min_scale in (None, 0.3):
        assert ImageSet(samples, 16, min_scale=min_scale)[0]["image"].shape == (3, 16, 16)
    for x0, y0, x1, y1 in (center_box(20, 30, box), random_box(20, 30, 0.3, box)):
        assert 0 <= x0 < x1 <= 30
        assert 0 <= y0 < y1 <= 20


def test_unreadable_photos_of_a_folder_are_of_one_kind(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.new("RGB", (64, 64)).save(whole, "TIFF")
    for i in range(5):
        (tmp_path / f"{i}.jpg").write_bytes(b"no image" * i)
        (tmp_path / f"{i}.tif").write_bytes(whole.getvalue()[: 9 + i])
    gps: dict[int, object] = {1: "N", 2: (91.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0)}
    for i in range(2):
        image, exif = Image.new("RGB", (8, 8)), Image.Exif()
        exif.get_ifd(0x8825).update(gps | {2: (181.0 + i, 0.0, 0.0)})
        image.save(tmp_path / f"far{i}.jpg", exif=exif)
    with pytest.raises(UserError) as error:
        read_folder(tmp_path)
    message = str(error.value)
    assert "12 of 12 photos cannot be used: 10 that cannot be read (first: 0.jpg, it is not an image" in message
    assert "2 with a GPS position out of range (first: far0.jpg)" in message


def photograph(side: int = 256, **settings: Any) -> bytes:
    """A JPEG of noise, nowhere grey (128)."""
    content = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 100, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(content, "JPEG", **settings)
    return content.getvalue()


@pytest.mark.parametrize("settings", [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}], ids=str)
def test_a_jpeg_that_lacks_its_end_is_used_and_noted(settings: dict[str, Any], tmp_path: Path) -> None:
    content, path = photograph(**settings), tmp_path / "a.jpg"
    path.write_bytes(content)
    whole, size = read_image(path, 1 << 30)
    crop, _ = read_crop(path, center_box, 64)
    path.write_bytes(content[:-20])
    with noting_salvaged() as noted:
        image, size_of_rest = read_image(path, 1 << 30)
        crop_of_rest, _ = read_crop(path, center_box, 64)
    assert noted == [(str(path), SALVAGED)] * 2
    assert size_of_rest == size
    assert torch.equal(image[:, :200], whole[:, :200]) or "progressive" in settings
    assert (image.float() - whole.float())[:, :200].abs().mean() < 2
    assert (crop_of_rest.float() - crop.float()).abs().mean() < 2
    with noting_salvaged() as noted:
        assert first_readable(lambda _: {"image": read_image(path, 64)}, 0, 1)["bad"] == [(str(path), SALVAGED)]
    assert not noted


def test_the_rest_of_a_jpeg_is_turned_and_read_from_memory(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = photograph(exif=exif)
    content = content[: len(content) * 3 // 4]
    image, _ = read_image(tmp_path / "a.jpg", 1 << 30, content)
    assert (image[:, :, :40] == 128).all()  # the last stored rows, the left columns when upright
    assert not (image[:, :, 200:] == 128).all(dim=(0, 1)).any()


def test_a_png_is_not_decoded_for_its_orientation(tmp_path: Path) -> None:
    """Pillow decodes the pixels to look for EXIF that comes after them."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = Image.new("RGB", (8, 4))
    image.save(tmp_path / "before.png", exif=exif)
    image.save(tmp_path / "after.png")
    content, chunk = (tmp_path / "after.png").read_bytes(), b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = (len(chunk) - 4).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4)
    (tmp_path / "after.png").write_bytes(content[:-12] + chunk + content[-12:])
    for name, size in (("before.png", (4, 8)), ("after.png", (8, 4))):
        assert image_size(tmp_path / name) == read_image(tmp_path / name, 1)[1][::-1] == size


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_a_jpeg_that_lacks_most_of_its_rows_is_bad(share: float, tmp_path: Path) -> None:
    content = photograph()
    (tmp_path / "a.jpg").write_bytes(content[: int(len(content) * share)])
    refused(tmp_path / "a.jpg", "truncated")


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP"])
def test_other_formats_are_read_whole_or_not_at_all(form: str, tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.effect_noise((256, 256), 90).convert("RGB").save(content, form)
    (tmp_path / "a").write_bytes(content.getvalue()[:-2000])
    refused(tmp_path / "a", "")


def test_salvaged_images_are_counted_apart_and_few_bad_ones_forgiven(tmp_path: Path) -> None:
    data = SuiteData(str(tmp_path))
    data.datasets["val"] = [None] * 41  # type: ignore[assignment]  # only their number counts
    data.record_bad_images([("a.jpg", SALVAGED), ("a.jpg", SALVAGED), ("b.jpg", "torn")], "val")
    assert data.salvaged == {"val": {"a.jpg"}}
    assert data.bad == {"val": {"b.jpg": "torn"}}
    data.record_bad_images([(f"{i}.jpg", "torn") for i in range(3)], "val")
    with pytest.raises(UserError, match=r"5 of 41 val images cannot be read, more than data\.max_bad=0\.01 allows"):
        data.record_bad_images([("d.jpg", "torn")], "val")
    strict = SuiteData(str(tmp_path), max_bad=0)
    strict.datasets["val"] = data.datasets["val"]
    with pytest.raises(UserError, match="1 of 41"):
        strict.record_bad_images([("b.jpg", "torn")], "val")
