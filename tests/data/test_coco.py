"""COCO's JSON as tools and other data sets write it."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from backbones.errors import UserError
from data.coco import read_coco
from data.layouts import recognize
from tests.data.detection_sets import BOX, CLASSES, coco, kind, names, photos, read

POLYGONS = [[4, 3, 10, 3, 10, 9], [20, 5, 24, 18, 22, 6]]


def rewrite(path: Path, **values: Any) -> None:
    """Sets values of the first annotation in a file; those that are `...` are removed."""
    content = json.loads(path.read_text())
    row = content["annotations"][0] | values
    content["annotations"][0] = {key: value for key, value in row.items() if value is not ...}
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("bbox", [..., None, [], [4, 3, 20], [None] * 4])
@pytest.mark.parametrize("polygons", [POLYGONS, [[], *POLYGONS], ..., None, [], [[]], {"counts": "a", "size": [3, 4]}])
def test_an_annotation_without_bbox(bbox: Any, polygons: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photos(tmp_path, names("a", 3))
    coco(tmp_path / "a.json", tmp_path, names("a", 3))
    rewrite(tmp_path / "a.json", bbox=bbox, segmentation=polygons)
    with caplog.at_level(logging.WARNING):
        first, *others = read_coco(tmp_path / "a.json", tmp_path)[1]
    assert all(record.boxes.tolist() == [BOX] for record in others)
    if isinstance(polygons, list) and any(polygons):
        assert first.boxes.tolist() == [BOX]
        assert not caplog.records
    else:
        assert len(first.boxes) == 0
        (said,) = [record.getMessage() for record in caplog.records]
        words = "left out 1 of 3 annotations with neither a bbox nor polygons: export with boxes"
        assert f"{words}; the first is annotation 1" in said


@pytest.mark.parametrize("area", [None, "", 7])
def test_an_area_that_is_empty_is_that_of_the_box(area: Any, tmp_path: Path) -> None:
    photos(tmp_path, ["a0"])
    coco(tmp_path / "a.json", tmp_path, ["a0"])
    rewrite(tmp_path / "a.json", area=area, bbox=["4", "3", "20", "15"], iscrowd=None)
    ((record,),) = read_coco(tmp_path / "a.json", tmp_path)[1:]
    assert record.boxes.tolist() == [BOX]
    assert record.areas.tolist() == [7 if area == 7 else 300]
    assert not record.crowd.any()


@pytest.mark.parametrize("inside", ["", "images"])
def test_lvis(inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images without file names, those of val in the folders of both splits; annotations that fill the file's ends."""
    monkeypatch.setattr("data.layouts.detection.PEEK", 200)
    where = {"train": ["train2017"], "val": ["val2017", "train2017"]}
    for split, folders in where.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for folder in folders:
            photos(tmp_path / inside / folder, own := names(f"{split}{folder[0]}", 6))
            coco(tmp_path / "part.json", tmp_path / inside / folder, own)
            part = json.loads((tmp_path / "part.json").read_text())
            for image, row in zip(part["images"], part["annotations"], strict=True):
                address = f"http://images.cocodataset.org/{folder}/{image['file_name']}"
                images.append({"id": len(images), "coco_url": address, "width": 40, "height": 30})
                annotations.append({**row, "image_id": images[-1]["id"]})
        (tmp_path / "part.json").unlink()
        categories = [{**category, "def": "x" * 200} for category in part["categories"]]
        content = {"annotations": annotations, "images": images, "categories": categories}
        (tmp_path / f"lvis_v1_{split}.json").write_text(json.dumps(content))
    assert recognize(tmp_path, "_detection").option == "coco"
    data = read(tmp_path)
    assert [len(data.records(split)) for split in ("train", "val")] == [6, 12]
    assert all(record.path.is_file() for record in data.records("val"))
    data.check()


def test_a_name_that_is_no_json_does_not_stop_the_recognition(tmp_path: Path) -> None:
    photos(tmp_path, ["a0"])
    coco(tmp_path / "a.json", tmp_path, ["a0"])
    (tmp_path / "a.json").write_bytes((tmp_path / "a.json").read_bytes().replace(b"a0.jpg", b"a0\xff.jpg"))
    assert recognize(tmp_path, "_detection").option == "coco"
    with pytest.raises(UserError, match=r"a\.json"):
        read(tmp_path).records("train")


def test_images_in_folders_of_no_split_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One file for all: test is val, and those of another folder are left out."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for folder, count in (("train", 6), ("test", 3), ("extra", 5)):
        photos(tmp_path / "images" / folder, own := names(folder, count))
        coco(tmp_path / "part.json", tmp_path / "images" / folder, own, f"{folder}/")
        part = json.loads((tmp_path / "part.json").read_text())
        annotations += [{**row, "image_id": row["image_id"] + len(images)} for row in part["annotations"]]
        images += [{**image, "id": image["id"] + len(images)} for image in part["images"]]
    (tmp_path / "part.json").unlink()
    content = {"images": images, "annotations": annotations, "categories": part["categories"]}
    (tmp_path / "all.json").write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        data = read(tmp_path)
        assert [len(data.records(split)) for split in ("train", "val", "test")] == [6, 3, 3]
    assert data.choices == "splits by the images' folders, val is test"
    (said,) = [record.getMessage() for record in caplog.records]
    words = "5 of 14 images are left out, as their split is not train, val or test but images/extra (5)"
    assert said == f"{tmp_path}: {words}"


@pytest.mark.parametrize("kept", [[0, 1], [1, 0], [1], [0]])
def test_categories_in_another_order_or_fewer(kept: list[int], tmp_path: Path) -> None:
    """Classes are told by their names, whatever the ids in each file."""
    for split, count in (("train", 6), ("val", 4)):
        photos(tmp_path / split, names(split, count))
        coco(tmp_path / f"{split}.json", tmp_path / split, names(split, count))
    content = json.loads((tmp_path / "val.json").read_text())
    new = {3 + old: i for i, old in enumerate(kept)}
    content["categories"] = [{"id": i, "name": CLASSES[old]} for i, old in enumerate(kept)]
    things = [thing for thing in content["annotations"] if thing["category_id"] in new]
    content["annotations"] = [{**thing, "category_id": new[thing["category_id"]]} for thing in things]
    (tmp_path / "val.json").write_text(json.dumps(content))
    data = read(tmp_path)
    data.check()
    assert data.labels == CLASSES
    found = {r.path.stem: r.labels.tolist() for r in data.records("val")}
    assert found == {n: [i] * (i in kept) for n in names("val", 4) for i in [CLASSES.index(kind(n))]}
    evaluated = read(tmp_path)
    evaluated.use_labels(["bird", *CLASSES])
    assert {r.path.stem: (r.labels - 1).tolist() for r in evaluated.records("val")} == found
    content["categories"].append({"id": 9, "name": "animal"})  # as Roboflow's, which no object has
    (tmp_path / "val.json").write_text(json.dumps(content))
    assert {r.path.stem: r.labels.tolist() for r in read(tmp_path).records("val")} == found
    content["categories"][0]["name"] = "bird"
    (tmp_path / "val.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="the val split has other categories than train: bird; rename them, or add"):
        read(tmp_path).check()
