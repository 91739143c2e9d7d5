"""Detection data: formats, bad files, augmentation, batches."""

import json
import logging
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from backbones.errors import UserError
from data.coco import CocoData, read_coco
from data.crops import resize_square
from data.detection import DetectionSet
from data.image_file import BadImage
from data.images import read_image
from data.seeding import Progress
from data.transforms import MOSAIC_VISIBLE, change_light, draw_window, mosaic, one_view, view
from data.voc import VocData
from tests.conftest import ROOT, shared


def coco_data(root: Path, resolution: int = 64, **settings: Any) -> CocoData:
    files: dict[str, Any] = {
        "train_json": "train.json",
        "train_images": "train",
        "val_json": "val.json",
        "val_images": "val",
    }
    return CocoData(str(root), resolution, **files, workers=0, batch_size=4, **{"mosaic": 0.0, **settings})


def test_coco_records_are_the_jsons(scenes: Path) -> None:
    content = json.loads((scenes / "train.json").read_text())
    labels, records = read_coco(scenes / "train.json", scenes / "train")
    assert labels == [c["name"] for c in content["categories"]]
    for record in records:
        image = content["images"][record.image_id]
        assert record.path.name == image["file_name"]
        wanted = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        assert len(record.labels) == len(wanted)
        for box, label, area, annotation in zip(record.boxes, record.labels, record.areas, wanted, strict=True):
            x, y, w, h = annotation["bbox"]
            np.testing.assert_allclose(box, [x, y, x + w, y + h], rtol=1e-6)
            assert content["categories"][label]["id"] == annotation["category_id"]
            assert area == pytest.approx(annotation["area"])


def test_batches(scenes: Path) -> None:
    data = coco_data(scenes)
    batch = next(iter(data.val_dataloader()))
    assert batch.images.shape == (4, 3, 64, 64)
    assert batch.images.dtype == torch.uint8
    records = data.records("val")[:4]
    assert batch.boxes.shape[1] == max(len(r.labels) for r in records)
    for i, record in enumerate(records):
        count = len(record.labels)
        assert batch.labels[i].tolist() == [*record.labels, *[-1] * (batch.labels.shape[1] - count)]
        scale = 64 / batch.sizes[i].flip(0).repeat(2)
        torch.testing.assert_close(
            batch.boxes[i, :count], torch.from_numpy(record.boxes).float() * scale, atol=0.01, rtol=0
        )


def test_boxes_follow_the_image_through_augmentation() -> None:
    """A bright square on black stays inside its box however the image is cropped, flipped and resized."""
    torch.manual_seed(0)
    image = torch.zeros(3, 90, 120, dtype=torch.uint8)
    image[:, 30:60, 40:80] = 255
    seen = mirrored = 0
    for _ in range(40):
        sample = view(image, np.array([[40.0, 30, 80, 60]]), np.array([2]), crop=True, flip=True)
        pixels, boxes, labels = one_view(sample, 64)
        assert pixels.shape == (3, 64, 64)
        mirrored += sample.mirrored
        if len(boxes):
            seen += 1
            bright = pixels.float().mean(0) > 60
            rows, columns = bright.any(1).nonzero().flatten(), bright.any(0).nonzero().flatten()
            found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            assert boxes[0].tolist() == pytest.approx([float(v) for v in found], abs=2.5)
            assert labels.tolist() == [2]
    assert seen > 20
    assert 8 < mirrored < 32


def test_crops_are_distributed_as_torchvisions() -> None:
    torch.manual_seed(0)
    image = tv_tensors.Image(torch.zeros(3, 240, 320, dtype=torch.uint8))
    corners = [[10.0, 20, 90, 120], [200, 30, 300, 220], [150, 150, 170, 170]]
    boxes = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(240, 320))

    def ours() -> list[int] | None:
        window = draw_window(320, 240, np.array(corners))
        return None if window == (0, 0, 320, 240) else [*window]

    def theirs() -> list[int] | None:
        drawn = v2.RandomIoUCrop().make_params([image, boxes])
        if not drawn:
            return None
        left, top = drawn["left"], drawn["top"]
        return [left, top, left + drawn["width"], top + drawn["height"]]

    means = []
    for draw in (theirs, ours):
        windows = [window for _ in range(600) if (window := draw())]
        means.append([len(windows) / 4, *np.mean(windows, axis=0)])
    np.testing.assert_allclose(means[0], means[1], atol=9)  # three standard errors


@pytest.mark.parametrize("boxes", [[], [[5.0, 5, 5.5, 5.5]], [[0.0, 0, 1, 1]], [[-9.0, -9, 40, 40]]])
@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1)])
def test_odd_images_are_augmented(boxes: list[list[float]], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    for _ in range(20):
        image = torch.zeros(3, *size, dtype=torch.uint8)
        views = [
            view(image, np.array(boxes).reshape(-1, 4), np.zeros(len(boxes), np.int64), crop=True, flip=True)
            for _ in range(4)
        ]
        for pixels, inside, labels in (one_view(views[0], 32), mosaic(views, 32)):
            assert pixels.shape == (3, 32, 32)
            assert len(inside) == len(labels)
            assert ((inside >= 0) & (inside <= 32)).all()


def test_light_is_changed_as_torchvision_does() -> None:
    """In the order brightness, contrast, saturation, with values that never need clipping."""
    torch.manual_seed(0)
    image = torch.randint(90, 150, (3, 20, 20), dtype=torch.uint8)
    torch.manual_seed(1)
    brightness, contrast, saturation = (0.7 + 0.6 * torch.rand(3)).tolist()
    torch.manual_seed(1)
    ours = change_light(image)
    theirs = v2.functional.adjust_brightness(image.float() / 255, brightness)
    theirs = v2.functional.adjust_contrast(theirs, contrast)
    theirs = v2.functional.adjust_saturation(theirs, saturation)
    assert (ours.float() - theirs * 255).abs().max() < 1.5


def test_scaled_decoding_is_near_full_decoding(tmp_path: Path) -> None:
    photo = Image.effect_noise((800, 600), 20).convert("RGB").resize((200, 150)).resize((800, 600))
    photo.save(tmp_path / "a.jpg", quality=95)
    image, size = read_image(tmp_path / "a.jpg", at_least=150)
    assert size == (600, 800)
    assert image.shape == (3, 150, 200)
    whole, _ = read_image(tmp_path / "a.jpg", at_least=1 << 30)
    small = v2.functional.resize(whole, [150, 200])
    assert (small.float() - image.float()).abs().mean() < 3


@pytest.mark.parametrize("content", [None, b"", b"not an image"])
def test_a_bad_image_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "bad.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadImage) as error:
        read_image(path, 64)
    assert error.value.args[0] == str(path)


def test_bad_images_are_replaced_counted_and_limited(scenes: Path, tmp_path: Path) -> None:
    root = tmp_path / "scenes"
    root.mkdir()
    (root / "train").mkdir()
    (root / "val").symlink_to(scenes / "val")
    for name in ("train.json", "val.json"):
        (root / name).write_bytes((scenes / name).read_bytes())
    for image in (scenes / "train").iterdir():
        (root / "train" / image.name).write_bytes(image.read_bytes())
    whole = (root / "train" / "000003.jpg").read_bytes()
    (root / "train" / "000003.jpg").write_bytes(whole[: len(whole) // 4])
    for i in range(5, 9):
        (root / "train" / f"00000{i}.jpg").write_bytes(b"")

    data = coco_data(root, max_bad=0.3)
    batches = list(data.train_dataloader())
    assert all(len(b.images) == 4 for b in batches)
    problems = {problem for batch in batches for problem in batch.bad}
    assert {Path(path).name for path, _ in problems} == {f"00000{i}.jpg" for i in (3, 5, 6, 7, 8)}
    data.record_bad_images(problems, "train")
    assert len(data.bad["train"]) == 5
    data.max_bad = 0.2
    with pytest.raises(UserError, match=r"5 of 24 train images cannot be read, more than data.max_bad=0.2"):
        data.record_bad_images(problems, "train")


def write_json(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


IMAGE = {"id": 1, "file_name": "a.jpg", "width": 10, "height": 10}
CATEGORY = {"id": 7, "name": "cat"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not valid JSON"),
        ("[1, 2]", "top level is not an object"),
        ({"images": []}, "is not in COCO's format: KeyError: 'categories'"),
        ({"images": [{"id": 1}], "categories": [CATEGORY]}, "ValueError: image 1 has no file_name"),
        (
            {
                "images": [IMAGE],
                "categories": [CATEGORY],
                "annotations": [{"id": 3, "image_id": 1, "category_id": 9, "bbox": [0, 0, 1, 1]}],
            },
            r"annotation 3 has category_id 9, which is not among the categories \[7\]",
        ),
        (
            {
                "images": [IMAGE],
                "categories": [CATEGORY],
                "annotations": [{"id": 3, "image_id": 2, "category_id": 7, "bbox": [0, 0, 1, 1]}],
            },
            "annotation 3 is of unknown image 2",
        ),
    ],
)
def test_bad_coco_json(content: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as error:
        read_coco(write_json(tmp_path / "a.json", content), tmp_path)
    assert "\n" not in str(error.value)


def test_degenerate_boxes_are_dropped_and_empty_images_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    annotations = [{"id": 3, "image_id": 1, "category_id": 7, "bbox": [0, 0, 0, 5]}]
    content = {"images": [IMAGE], "categories": [CATEGORY], "annotations": annotations}
    with caplog.at_level(logging.WARNING):
        _, records = read_coco(write_json(tmp_path / "a.json", content), tmp_path)
    assert "dropped 1 boxes without area" in caplog.text
    assert records[0].boxes.shape == (0, 4)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no annotation file"):
        read_coco(tmp_path / "absent.json", tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        coco_data(tmp_path / "absent").prepare()
    with pytest.raises(UserError, match=r"there is no list .*Main/train.txt"):
        VocData(str(tmp_path), 64, train="train", val="val").records("train")


def test_bccd(caplog: pytest.LogCaptureFixture) -> None:
    root = shared("data/bccd")
    with caplog.at_level(logging.WARNING):
        data = VocData(str(root), 64, train="trainval", val="test", workers=0, batch_size=8)
        train, val = data.records("train"), data.records("val")
    assert data.labels == ["Platelets", "RBC", "WBC"]
    assert (len(train), len(val)) == (292, 72)
    assert sum(len(r.labels) for r in [*train, *val]) == 4888 - 2
    assert "without area" in caplog.text
    assert next(iter(data.val_dataloader())).images.shape == (8, 3, 64, 64)


def test_an_unreadable_xml_is_skipped_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (tmp_path / folder).mkdir(parents=True)
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>9</ymax></bndbox>"
    Image.new("RGB", (9, 9)).save(tmp_path / "JPEGImages" / "good.jpg")
    (tmp_path / "Annotations" / "good.xml").write_text(f"<a><object><name>cell</name>{box}</object></a>")
    (tmp_path / "Annotations" / "torn.xml").write_text("<a><object>")
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("good\ntorn\nabsent\n")
    with caplog.at_level(logging.WARNING):
        data = VocData(str(tmp_path), 64, train="train", val="train")
        (record,) = data.records("train")
    assert record.boxes.tolist() == [[0, 0, 5, 9]]
    assert "left out 1 of 3 .xml files that cannot be read; the first is" in caplog.text
    assert "torn.xml: no element found" in caplog.text
    assert "left out 1 of 3 names without an .xml file; the first is absent.xml" in caplog.text


def test_boxes_at_the_border_are_kept() -> None:
    corners = np.array([[-0.5, 10.0, 50.0, 333.4], [100.0, 100, 557.0, 333.0]])
    image = torch.zeros(3, 333, 557, dtype=torch.uint8)
    _, boxes, labels = one_view(view(image, corners, np.array([0, 1]), crop=False, flip=False), 64)
    assert labels.tolist() == [0, 1]
    assert boxes.min() >= 0
    assert boxes.max() <= 64


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "RGBA", "I;16"])
def test_every_kind_of_image_becomes_rgb(mode: str, tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)
    photo = Image.fromarray(ramp.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(ramp).convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    photo.save(path)
    image, size = read_image(path, 8)
    assert (image.shape, size) == ((3, 8, 8), (8, 8))
    if mode != "1":
        assert (image[0].float() - torch.from_numpy(ramp.copy())).abs().mean() < 6


def test_upright(tmp_path: Path) -> None:
    photo = Image.new("RGB", (40, 20))
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg", 8)[1] == (40, 20)
    image, size = read_image(tmp_path / "a.jpg", 1 << 30)
    assert (tuple(image.shape[1:]), size) == ((40, 20), (40, 20))


def test_mosaic_keeps_each_box_on_its_object() -> None:
    """Four images, each with a square in a different grey."""
    torch.manual_seed(0)
    seen = set()
    for _ in range(30):
        views = []
        for grey in (60, 110, 160, 210):
            x, y = torch.randint(0, 60, (2,)).tolist()
            image = torch.zeros(3, 96, 96, dtype=torch.uint8)
            image[:, y : y + 30, x : x + 30] = grey
            views.append(view(image, np.array([[x, y, x + 30, y + 30]]), np.array([grey]), crop=False, flip=True))
        found, boxes, labels = mosaic(views, 96)
        assert found.shape == (3, 96, 96)
        for (x0, y0, x1, y1), grey in zip(boxes.round().astype(int).tolist(), labels.tolist(), strict=True):
            inner = found[0, y0 + 2 : y1 - 2, x0 + 2 : x1 - 2].float()
            assert (inner - grey).abs().max() < 3
            seen.add(grey)
        for grey in {60, 110, 160, 210} - set(labels.tolist()):
            left = ((found[0].float() - grey).abs() < 3).sum()
            assert left <= (MOSAIC_VISIBLE + 0.1) * 30**2
    assert seen == {60, 110, 160, 210}


def test_mosaic_in_a_loader(scenes: Path) -> None:
    torch.manual_seed(0)
    batch = next(iter(coco_data(scenes, mosaic=1.0).train_dataloader()))
    boxes = batch.boxes[batch.labels >= 0]
    assert batch.images.shape == (4, 3, 64, 64)
    assert (batch.labels >= 0).sum() > 8
    assert ((boxes[:, 2:] > boxes[:, :2]).all() and boxes.min() >= 0 and boxes.max() <= 64).item()


def test_the_end_of_a_training_sees_images_as_they_are(scenes: Path) -> None:
    batches = {}
    for share, done in ((1.0, 0.5), (1.0, 0.9), (0.0, 0.9)):
        data = coco_data(scenes, mosaic=share, crop=False, photometric=0.0)
        data.progress = partial(Progress, done)
        batches[share, done] = next(iter(data.train_dataloader()))
    counts = {key: int((batch.labels >= 0).sum()) for key, batch in batches.items()}
    assert counts[1.0, 0.9] == counts[0.0, 0.9] < counts[1.0, 0.5]


def test_rare_classes_are_shown_more_often(scenes: Path) -> None:
    data = coco_data(scenes, balance=0.9)
    dataset = data.dataset("train")
    weights = data.sampling_weights(dataset)
    assert weights is not None
    records = data.records("train")
    share = {c: sum(c in r.labels for r in records) / len(records) for c in range(len(data.labels))}
    for record, weight in zip(records, weights.tolist(), strict=True):
        assert weight == pytest.approx(max([1.0, *((0.9 / share[c]) ** 0.5 for c in set(record.labels.tolist()))]))
    assert len(set(weights.tolist())) > 1
    assert len(data.train_dataloader().sampler) == len(records)


def test_mosaics_show_rare_classes_more_often_too(scenes: Path) -> None:
    dataset = coco_data(scenes, balance=0.9, mosaic=1.0, crop=False, flip=False).dataset("train")
    assert isinstance(dataset, DetectionSet)
    assert dataset.weights is not None
    dataset.weights = torch.zeros(len(dataset)).index_fill(0, torch.tensor([3]), 1.0)
    shown = {label for _ in range(5) for label in dataset[0]["labels"].tolist()}
    assert shown <= {*dataset.records[0].labels, *dataset.records[3].labels}


def test_kept_images_are_the_pixels_of_prediction(scenes: Path) -> None:
    """Wide images, which a cache would otherwise resize twice."""
    plain, kept = (coco_data(scenes, cache_images=keep).dataset("val")[2]["image"] for keep in (False, True))
    assert torch.equal(plain, kept)
    image, _ = read_image(coco_data(scenes).records("val")[2].path, 64)
    assert torch.equal(kept, resize_square(image, 64))


def test_a_script_that_holds_a_loader_ends(scenes: Path) -> None:
    """Python would wait for loader processes, which ignore the signal that it sends them."""
    program = (
        "from pathlib import Path\n"
        "from tests.data.test_detection import coco_data\n"
        f"data = coco_data(Path({str(scenes)!r}))\n"
        "data.workers = 1\n"
        "loader = data.train_dataloader()\n"
        "print(len(next(iter(loader)).images))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100, check=True
    )
    assert result.stdout == "4\n"
