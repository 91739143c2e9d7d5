"""Crops against torchvision, and files that are not as they should be."""

import io
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from data.base import Split
from data.boxes import RATIO, center_box, random_box
from data.classification import ClassificationData, ImageSet, Sample, collate
from data.crops import read_crop, resize_box
from data.image_file import ORIENTATION, BadImage

sides = st.integers(1, 600)


def smooth_image(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 255 / width, y * 255 / height, (x + y) % 200], -1).astype(np.uint8))


@given(sides, sides, st.floats(0.05, 1.0), st.integers(0, 1 << 30))
def test_a_random_box_lies_inside(height: int, width: int, scale: float, seed: int) -> None:
    random.seed(seed)
    left, top, right, bottom = random_box(height, width, scale)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


@given(sides, sides, st.data())
def test_boxes_keep_to_what_they_are_given(height: int, width: int, data: st.DataObject) -> None:
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    within = (left, top, data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height)))
    x0, y0, x1, y1 = random_box(height, width, 0.3, within)
    assert within[0] <= x0 < x1 <= within[2]
    assert within[1] <= y0 < y1 <= within[3]
    x0, y0, x1, y1 = center_box(height, width, within)
    assert x1 - x0 == pytest.approx(y1 - y0)
    assert -1e-9 <= x0 < x1 <= width + 1e-9
    assert -1e-9 <= y0 < y1 <= height + 1e-9


def test_random_boxes_are_distributed_as_torchvisions() -> None:
    random.seed(0)
    torch.manual_seed(0)
    theirs = v2.RandomResizedCrop(224, scale=(0.2, 1), ratio=RATIO)
    image = torch.zeros(3, 375, 500, dtype=torch.uint8)
    rows = [theirs.make_params([image]) for _ in range(4000)]
    peer = np.array([(p["left"], p["top"], p["left"] + p["width"], p["top"] + p["height"]) for p in rows])
    ours = np.array([random_box(375, 500, 0.2) for _ in range(4000)])
    for q in (0.1, 0.5, 0.9):
        np.testing.assert_allclose(np.quantile(ours, q, axis=0), np.quantile(peer, q, axis=0), atol=16)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (900, 1200), (1600, 1300)])
def test_a_crop_is_torchvisions_resized_crop(size: tuple[int, int], tmp_path: Path) -> None:
    """Of the full-size image, though ours decodes at half or quarter size."""
    path = tmp_path / "image.jpg"
    smooth_image(*size).save(path, quality=95)
    width, height = size
    box = (width // 10, height // 8, width // 10 + height // 2, height // 8 + height // 2)
    ours, found = read_crop(path, lambda h, w: box, 96)
    assert found == (height, width)
    whole = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
    part = box[1], box[0], box[3] - box[1], box[2] - box[0]
    theirs = F.resized_crop(whole, *part, [96, 96], antialias=True)
    # without blue, a sawtooth whose jumps move if decoded at another scale
    difference = (ours[:2].float() - theirs[:2].float()).abs()
    assert float(difference.mean()) < 1.5


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_as_their_exif_says(
    orientation: int, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At full and reduced scale, and in the cache; a JPEG without Pillow, which would decode all of it."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path, plain = tmp_path / f"turned{suffix}", tmp_path / f"upright{suffix}"
    stored = smooth_image(400, 300)
    stored.save(path, exif=exif, quality=95)
    with Image.open(path) as image:
        ImageOps.exif_transpose(image).save(plain, quality=95)

    def part(height: int, width: int) -> tuple[float, float, float, float]:
        return width / 8, height / 3, width / 8 + 160, height / 3 + 120

    def pixel(height: int, width: int) -> tuple[float, float, float, float]:
        return width / 2, height / 2, width / 2 + 1, height / 2 + 1

    for box, side in ((part, 32), (part, 120), (pixel, 32)):
        with monkeypatch.context() as patch:
            if suffix == ".jpg":
                patch.delattr("data.crops.read_image")
            (ours, size), (expected, upright) = (read_crop(file, box, side) for file in (path, plain))
        assert size == upright
        assert (ours[:2].float() - expected[:2].float()).abs().mean() < 2
    for cached in (False, True):
        found, wanted = (ImageSet([Sample(file, 0, None)], 64, cache_images=cached)[0] for file in (path, plain))
        assert found["size"] == wanted["size"]
        assert (found["image"][:2].float() - wanted["image"][:2].float()).abs().mean() < 2


@pytest.mark.parametrize("box", [(0, 0, 90, 60), (0, 10, 90, 50), (5, 0, 80, 60)], ids=["all", "rows", "columns"])
def test_a_part_is_resized_in_channels_last(box: tuple[int, int, int, int]) -> None:
    """Torch's other code path is slower, and so is collating its result."""
    image = torch.from_numpy(np.array(smooth_image(90, 60))).permute(2, 0, 1)
    ours = resize_box(image, box, 24, 32)
    assert ours.stride() == (1, 3 * 32, 3)
    part = image[None, :, box[1] : box[3], box[0] : box[2]].contiguous()
    theirs = torch.nn.functional.interpolate(part, (24, 32), mode="bilinear", antialias=True)[0]
    assert torch.equal(ours, theirs)


def test_a_batch_is_channels_last_and_mirrored_where_drawn(tmp_path: Path) -> None:
    smooth_image(80, 80).save(tmp_path / "a.png")
    torch.manual_seed(0)
    images = ImageSet([Sample(tmp_path / "a.png", 3)], 32, min_scale=1.0, flip=True)
    samples = [images[0] for _ in range(16)]
    batch = collate(samples)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.images.dtype == torch.uint8
    assert batch.labels.tolist() == [3] * 16
    mirrored = batch.images[:, 0, :, 0] > batch.images[:, 0, :, -1]  # red rises to the right
    assert mirrored.all(dim=1).tolist() == [s["mirror"] for s in samples]
    assert 0 < sum(s["mirror"] for s in samples) < 16


def encoded(mode: str, kind: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    smooth_image(90, 60).convert(mode).save(buffer, kind, **settings)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        encoded("L", "JPEG"),
        encoded("CMYK", "JPEG"),
        encoded("RGB", "JPEG", progressive=True),
        encoded("RGB", "JPEG", subsampling=0) + b"trailing bytes",
        encoded("RGBA", "PNG"),
        encoded("P", "GIF"),
    ],
    ids=["grey", "cmyk", "progressive", "trailing", "alpha", "palette"],
)
def test_kinds_of_images(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(content)
    image, size = read_crop(tmp_path / "image", center_box, 32)
    assert (image.shape, size) == ((3, 32, 32), (60, 90))


def test_a_view_is_the_same_however_it_is_decoded(tmp_path: Path) -> None:
    """The box is drawn once, though simplejpeg reads the header of a JPEG that is cut off, and Pillow the rest."""
    (tmp_path / "a.jpg").write_bytes(encoded("RGB", "JPEG")[:-2])
    samples = [Sample(tmp_path / "a.jpg", 0)] * 8
    plain, kept = (
        ImageSet(samples, 32, min_scale=0.1, flip=True, views=1, cache_images=cached) for cached in (False, True)
    )
    for i in range(len(samples)):
        assert torch.equal(plain[i]["image"], kept[i]["image"])
        assert plain[i]["mirror"] == kept[i]["mirror"]


def test_unreadable_images_are_named_with_their_reason(tmp_path: Path) -> None:
    whole = encoded("RGB", "JPEG")
    for name, content in (("half.jpg", whole[: len(whole) // 2]), ("empty.jpg", b""), ("text.jpg", b"hello")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadImage) as error:
            read_crop(tmp_path / name, center_box, 32)
        path, reason = error.value.args
        assert path.endswith(name)
        assert reason
    with pytest.raises(BadImage, match="there is no such file"):
        read_crop(tmp_path / "absent.jpg", center_box, 32)


class Listed(ClassificationData):
    """A thousand images that are never read."""

    def samples(self, split: Split) -> list[Sample]:
        return [Sample(Path(f"{i}.jpg"), 0) for i in range(1000)]


@pytest.mark.parametrize(("workers", "cached"), [(0, True), (1, True), (2, False), (8, False)])
def test_two_gigabytes_are_for_all_loader_processes_together(workers: int, cached: bool) -> None:
    data = Listed("", resolution=224, cache_images="auto", workers=workers)
    assert (data.build_dataset("val").reader.kept_side is not None) == cached
