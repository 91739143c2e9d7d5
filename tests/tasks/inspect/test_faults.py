"""Faults that are planted in data sets are all found, and nothing is found that was not planted."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.coco import CocoData
from data.folders import FoldersData
from data.voc import VocData
from tasks.engine.config import load_config
from tasks.inspect.findings import Finding
from tasks.inspect.survey import survey
from tests.conftest import png_header

WIDE, HIGH = 96, 64
CLASSES = ("cat", "dog")
CONFIG = load_config(["task=detection"])
COUNTS = {"train": 12, "val": 4}


def picture(seed: int, size: tuple[int, int] = (WIDE, HIGH)) -> Image.Image:
    """Soft patches of colour, unlike those of any other seed."""
    cells = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)


def draw(root: Path) -> dict[str, dict[str, Any]]:
    """A set without faults: in each image a box of each class."""
    contents: dict[str, dict[str, Any]] = {}
    for number, (split, count) in enumerate(COUNTS.items()):
        (root / split).mkdir(parents=True)
        content: dict[str, Any] = {"images": [], "annotations": []}
        content["categories"] = [{"id": i, "name": name} for i, name in enumerate(CLASSES)]
        for i in range(count):
            picture(100 * number + i).save(root / split / f"{i}.jpg", quality=90)
            content["images"].append({"id": i, "file_name": f"{i}.jpg", "width": WIDE, "height": HIGH})
            for label in range(len(CLASSES)):
                box = [4 + 40 * label, 5, 30, 40]
                content["annotations"].append({"image_id": i, "category_id": label, "bbox": box, "area": 1200})
        contents[split] = content
    return contents


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clean")
    for split, content in draw(root).items():
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


def found_in(root: Path, **settings: Any) -> dict[str, Finding]:
    files = {"train_json": "train.json", "train_images": "train", "val_json": "val.json", "val_images": "val"}
    data = CocoData(str(root), 64, **{**files, **settings})
    return {f.kind: f for f in survey(data, CONFIG).findings}


def add(root: Path, *boxes: tuple[float, ...], split: str = "train", image: int = 0, **more: Any) -> None:
    """Adds boxes (left, top, width, height) of the first class to an image."""

    def change(content: dict[str, Any]) -> None:
        for box in boxes:
            content["annotations"].append({"image_id": image, "category_id": 0, "bbox": box, "area": 9, **more})

    edit(root, change, split)


def edit(root: Path, change: Callable[[dict[str, Any]], object], split: str = "train") -> None:
    path = root / f"{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def near_copy(root: Path) -> None:
    with Image.open(root / "train" / "3.jpg") as image:
        image.resize((90, 60)).point(lambda v: min(255, int(v * 0.9) + 20)).save(root / "val" / "0.jpg", quality=60)
    edit(root, lambda c: c["images"][0].update(width=90, height=60), "val")


def rotated(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(0).transpose(Image.Transpose.ROTATE_90).save(root / "train" / "0.jpg", quality=90, exif=exif)


def resized(root: Path, size: tuple[int, int]) -> None:
    picture(0, size).save(root / "train" / "0.jpg")
    edit(root, lambda c: c["images"][0].update(width=size[0], height=size[1]))
    edit(root, lambda c: [c["annotations"][i].update(bbox=[1 + 9 * i, 1, 8, 9]) for i in range(2)])


def only_in(root: Path, split: str) -> None:
    """A third class, of which only one split has a dozen boxes."""
    for other in COUNTS:
        edit(root, lambda c: c["categories"].append({"id": 2, "name": "emu"}), other)
    for image in range(COUNTS[split]):
        add(root, (50, 50, 9, 9), split=split, image=image, category_id=2)


def unused(root: Path) -> None:
    for split in COUNTS:
        edit(root, lambda c: c["categories"].append({"id": 2, "name": "emu"}), split)


def listed_twice(root: Path) -> None:
    edit(root, lambda c: c["images"][1].update(file_name="0.jpg"))
    (root / "train" / "1.jpg").unlink()


def rename(root: Path) -> None:
    for split in COUNTS:
        edit(root, lambda c: c["categories"][1].update(name="Cat "), split)


FAULTS: dict[str, Callable[[Path], object]] = {
    "missing": lambda root: (root / "train" / "0.jpg").unlink(),
    "unreadable": lambda root: (root / "train" / "0.jpg").write_text("no image"),
    "unreadable: empty": lambda root: (root / "train" / "0.jpg").write_bytes(b""),
    "unreadable: few rows": lambda root: cut(root / "train" / "0.jpg", 0.4),
    "unreadable: huge": lambda root: (root / "train" / "0.jpg").write_bytes(png_header(60_000, 60_000)),
    "truncated": lambda root: cut(root / "train" / "0.jpg", 0.95),
    "flat": lambda root: Image.new("RGB", (WIDE, HIGH), "grey").save(root / "train" / "0.jpg"),
    "tiny": lambda root: resized(root, (WIDE, 20)),
    "long": lambda root: resized(root, (600, HIGH)),
    "misnamed": lambda root: picture(0).save(root / "train" / "0.jpg", "PNG"),
    "mode": lambda root: picture(0).convert("CMYK").save(root / "train" / "0.jpg"),
    "rotated": rotated,
    "unlisted": lambda root: picture(99).save(root / "train" / "99.jpg"),
    "listed_twice": listed_twice,
    "two_splits": lambda root: shutil.copy(root / "train" / "0.jpg", root / "val" / "0.jpg"),
    "near": near_copy,
    "copies": lambda root: shutil.copy(root / "train" / "0.jpg", root / "train" / "1.jpg"),
    "outside of their images": lambda root: add(root, (200, 5, 30, 30)),
    "without area": lambda root: add(root, (20, 5, 0, 30)),
    "that are not finite": lambda root: add(root, (20, 5, float("nan"), 30)),
    "size": lambda root: edit(root, lambda c: c["images"][0].update(width=HIGH, height=WIDE)),
    "over": lambda root: add(root, (80, 5, 40, 30)),
    "box_twice": lambda root: add(root, (4, 5, 30, 40)),
    "two_classes": lambda root: add(root, (4, 5, 30, 40), category_id=1),
    "empty": lambda root: edit(root, lambda c: c.update(annotations=c["annotations"][2:])),
    "crowd": lambda root: add(root, (50, 50, 9, 9), iscrowd=1),
    "few": lambda root: edit(root, lambda c: c.update(annotations=c["annotations"][:17] + c["annotations"][18::2])),
    "untrained": lambda root: only_in(root, "val"),
    "unmeasured": lambda root: only_in(root, "train"),
    "unused": unused,
    "names": rename,
}


def test_nothing_is_odd_about_a_set_without_faults(clean: Path) -> None:
    assert found_in(clean) == {}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_alone(fault: str, clean: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(clean, root)
    FAULTS[fault](root)
    found = found_in(root)
    assert list(found) == [fault.partition(":")[0]]
    (finding,) = found.values()
    assert finding.count == 1
    assert finding.examples[0].path is None or finding.examples[0].path.stem in ("0", "1", "99")


def test_an_image_that_was_annotated_as_it_is_stored(clean: Path, tmp_path: Path) -> None:
    """Boxes refer to the upright image."""
    root = Path(shutil.copytree(clean, tmp_path / "data"))
    rotated(root)
    edit(root, lambda c: c["images"][0].update(width=HIGH, height=WIDE))
    assert {*found_in(root)} == {"rotated", "size"}


def test_faults_of_voc(tmp_path: Path) -> None:
    """VOC's own faults: an annotation that cannot be read, and the same list twice."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for i in range(12):
        picture(i).save(tmp_path / "JPEGImages" / f"{i}.jpg")
        objects = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{9 + 40 * k}</xmin><ymin>9</ymin><xmax>{40 + 40 * k}</xmax>"
            "<ymax>40</ymax></bndbox></object>"
            for k, name in enumerate(CLASSES)
        )
        size = f"<size><width>{WIDE}</width><height>{HIGH}</height></size>"
        (tmp_path / "Annotations" / f"{i}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    (tmp_path / "Annotations" / "11.xml").write_text("<annotation>")
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("\n".join(map(str, range(12))))
    data = VocData(str(tmp_path), 64, train="train", val="train")
    found = {f.kind: f for f in survey(data, CONFIG).findings}
    assert found.keys() == {"no_split", "warnings", "unlisted"}
    assert "11.xml" in found["warnings"].examples[0].words


def test_faults_of_classification(tmp_path: Path) -> None:
    """A copy under another label, besides faults of files and splits as in detection."""
    for split, count in (("train", 10), ("val", 2)):
        for label, name in enumerate(CLASSES):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                picture(1000 * label + 10 * i + (split == "val")).save(tmp_path / split / name / f"{i}.jpg")
    data = FoldersData(str(tmp_path), 64, train="train", val="val")
    assert survey(data, CONFIG).findings == []
    shutil.copy(tmp_path / "train" / "cat" / "0.jpg", tmp_path / "train" / "dog" / "0.jpg")
    shutil.copy(tmp_path / "train" / "cat" / "1.jpg", tmp_path / "val" / "cat" / "1.jpg")
    found = {f.kind: f for f in survey(data, CONFIG).findings}
    assert {kind: f.count for kind, f in found.items()} == {"two_splits": 1, "differing": 1, "copies": 1}
    assert found["differing"].examples[0].words == "cat against dog"
