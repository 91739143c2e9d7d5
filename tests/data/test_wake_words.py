"""Visual wake words: which of COCO's images show a person, and training on these labels."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from backbones.errors import UserError
from data.wake_words import read_presence
from tasks.run import execute

CATEGORIES = [{"id": 1, "name": "person"}, {"id": 7, "name": "dog"}]


def box(image: int, category: int, width: float, height: float) -> dict[str, Any]:
    # the segment's area does not count
    return {"id": 1, "image_id": image, "category_id": category, "bbox": [0, 0, width, height], "area": 1.0}


CONTENT = {
    "categories": CATEGORIES,
    "images": [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 80} for i in range(6)],
    "annotations": [
        box(0, 1, 8, 5),  # 0.5 % of the image, which is not enough
        box(1, 1, 8, 5.1),
        box(2, 7, 90, 70),
        *(box(3, 1, 5, 5), box(3, 1, 5, 5)),  # together they are enough
        *(box(4, 1, 1, 1), box(4, 1, 50, 50)),
    ],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train2017", "val2017"):
        (tmp_path / split).mkdir()
        for i in range(6):
            Image.new("RGB", (100, 80), (40 * i, 9, 9)).save(tmp_path / split / f"{i}.png")
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(CONTENT))
    return tmp_path


def test_a_person_of_more_than_half_a_percent(root: Path) -> None:
    found = read_presence(root / "annotations/instances_val2017.json", root / "val2017", "person", 0.005)
    assert [s.path.name for s in found] == [f"{i}.png" for i in range(6)]
    assert [s.label for s in found] == [0, 1, 0, 0, 1, 0]
    dogs = read_presence(root / "annotations/instances_val2017.json", root / "val2017", "dog", 0.005)
    assert [s.label for s in dogs] == [0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(categories=CATEGORIES[1:]), r"has no category person \(data\.category\)"),
        (lambda c: c["images"][0].update(file_name="../x.png"), "an image that is not below .*: ../x.png"),
        (lambda c: c["annotations"][0].update(image_id=9), "is not in COCO's format: KeyError: 9"),
        (lambda c: c.pop("images"), "is not in COCO's format: KeyError: 'images'"),
    ],
)
def test_files_that_cannot_be_used(change: Callable[[Any], None], words: str, root: Path) -> None:
    content = json.loads(json.dumps(CONTENT))
    change(content)
    path = root / "annotations/instances_val2017.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=words):
        read_presence(path, root / "val2017", "person", 0.005)


def test_the_recipe(root: Path) -> None:
    quick = ("data.batch_size=3", "data.workers=0", "trainer.max_epochs=1", "trainer.precision=32", "logger.images=0")
    content = execute(["experiment=vww", f"data.root={root}", *quick, f"paths.runs={root / 'runs'}"])
    assert (content["state"], content["classes"], content["resolution"]) == ("finished", 2, 96)
    assert content["cost"]["params_m"] == pytest.approx(0.22, abs=0.01)  # an int8 file of it fits 325 kB
