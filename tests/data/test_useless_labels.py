"""Labels of detection data that are of no use: boxes, names and files, counted or refused in one line."""

import logging
from pathlib import Path

import pytest
from PIL import Image

from backbones.errors import UserError
from data.coco import read_coco
from data.voc import VocData
from tests.data.test_detection import CATEGORY, IMAGE, coco_data, write_json

NAN, INF = float("nan"), float("inf")


def one_image(root: Path, boxes: list[list[float]], **image: object) -> Path:
    """train.json and val.json of an image of 40 x 30."""
    (root / "train").mkdir(parents=True)
    (root / "val").mkdir()
    for split in ("train", "val"):
        Image.new("RGB", (40, 30)).save(root / split / "a.png")
        rows = [{"id": i, "image_id": 1, "category_id": 7, "bbox": box} for i, box in enumerate(boxes)]
        facts = {"id": 1, "file_name": "a.png", **image}
        write_json(root / f"{split}.json", {"images": [facts], "categories": [CATEGORY], "annotations": rows})
    return root


USELESS = {
    "not finite": ([NAN, 0, 5, 5], "that are not finite"),
    "infinite": ([0, 0, INF, 5], "that are not finite"),
    "overflowing": ([0, 0, 1e300, 5], "that are not finite"),
    "negative": ([5, 5, -2, 3], "without area"),
    "right of it": ([40, 0, 5, 5], "outside of their images"),
    "above it": ([0, -9, 5, 9], "outside of their images"),
}


@pytest.mark.parametrize(("box", "words"), USELESS.values(), ids=USELESS)
@pytest.mark.parametrize("size", [{"width": 40, "height": 30}, {}, {"width": NAN, "height": None}], ids=str)
def test_useless_boxes_are_counted_and_a_split_of_nothing_else_refused(
    box: list[float], words: str, size: dict[str, object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = [1.0, 1, 20, 20]
    with caplog.at_level(logging.WARNING):
        data = coco_data(one_image(tmp_path / "some", [good, box, box], **size))
        assert len(data.dataset("train")[0]["boxes"]) <= 1
    assert f"dropped 2 boxes {words}" in caplog.text
    assert data.records("train")[0].boxes.tolist() == [[1, 1, 21, 21]]
    with pytest.raises(UserError, match="none of the 1 images of the train split has a usable box"):
        coco_data(one_image(tmp_path / "none", [box], **size)).dataset("train")


def test_the_file_decides_where_its_annotated_size_would_lose_boxes(tmp_path: Path) -> None:
    data = coco_data(one_image(tmp_path, [[30, 1, 5, 5]], width=4, height=3))
    assert len(data.records("train")[0].boxes) == 1


def test_no_boxes_and_no_categories(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of the 1 images of the val split has a usable box"):
        coco_data(one_image(tmp_path / "a", [])).dataset("val")
    crowd = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 5, 5], "iscrowd": 1}
    content = {"images": [IMAGE], "categories": [CATEGORY], "annotations": [crowd]}
    root = one_image(tmp_path / "b", [])
    (root / "val" / "a.png").rename(root / "val" / str(IMAGE["file_name"]))
    write_json(root / "val.json", content)
    with pytest.raises(UserError, match="has a usable box"):
        coco_data(root).dataset("val")
    with pytest.raises(UserError, match="has no categories"):
        read_coco(write_json(tmp_path / "a.json", content | {"categories": [], "annotations": []}), tmp_path)


@pytest.mark.parametrize("name", [5, None, ["a"], "\ud800"])
def test_names_of_categories_that_cannot_be_written(name: object, tmp_path: Path) -> None:
    content = {"images": [], "categories": [CATEGORY | {"name": name}]}
    with pytest.raises(UserError, match="is not in COCO's format"):
        read_coco(write_json(tmp_path / "a.json", content), tmp_path)


def test_json_that_is_nested_too_deeply(tmp_path: Path) -> None:
    text = '{"images": ' + "[" * 200_000 + "]" * 200_000 + "}"
    with pytest.raises(UserError, match="nested too deeply"):
        read_coco(write_json(tmp_path / "a.json", text), tmp_path)


def voc_folder(root: Path, listing: bytes, xml: bytes) -> VocData:
    for name in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (root / name).mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_bytes(listing)
    for name in ("a", "b"):
        Image.new("RGB", (40, 30)).save(root / "JPEGImages" / f"{name}.jpg")
        (root / "Annotations" / f"{name}.xml").write_bytes(xml)
    return VocData(str(root), 32, train="train", val="train", workers=0)


def voc_xml(*boxes: tuple[object, ...], name: str = "cat", size: bool = True) -> bytes:
    corners = [dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)) for box in boxes]
    inner = ["".join(f"<{key}>{value}</{key}>" for key, value in box.items()) for box in corners]
    objects = "".join(f"<object><name>{name}</name><bndbox>{box}</bndbox></object>" for box in inner)
    return f"<annotation>{'<size><width>40</width><height>30</height></size>' * size}{objects}</annotation>".encode()


def test_a_voc_list_with_a_byte_order_mark_has_its_first_image(tmp_path: Path) -> None:
    data = voc_folder(tmp_path, "\ufeffa\nb\n".encode(), voc_xml((1, 1, 20, 20)))
    assert [record.path.stem for record in data.records("train")] == ["a", "b"]


def test_a_voc_list_that_is_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.txt cannot be read: it is not UTF-8: save it as UTF-8") as error:
        voc_folder(tmp_path, b"caf\xe9\n", voc_xml((1, 1, 20, 20))).records("train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("encoding", [b"no-such-encoding", b"utf-7", b"\xff"])
def test_annotations_in_an_unknown_encoding_are_left_out(
    encoding: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = voc_folder(tmp_path, b"a\nb\n", voc_xml((1, 1, 20, 20)))
    path = tmp_path / "Annotations" / "b.xml"
    path.write_bytes(b'<?xml version="1.0" encoding="' + encoding + b'"?>' + path.read_bytes())
    with caplog.at_level(logging.WARNING):
        assert len(data.records("train")) == 1
    assert f"left out 1 of 2 .xml files that cannot be read; the first is {path}: " in caplog.text


@pytest.mark.parametrize(
    ("box", "words"),
    [
        (("nan", 1, 9, 9), "that are not finite"),
        (("-inf", 1, 9, 9), "that are not finite"),
        ((5, 5, 5, 5), "without area"),
        ((50, 5, 60, 9), "outside of their images"),
    ],
)
@pytest.mark.parametrize("size", [True, False])
def test_useless_boxes_of_voc(
    box: tuple[object, ...], words: str, size: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        data = voc_folder(tmp_path, b"a\nb\n", voc_xml((1, 1, 20, 20), box, size=size))
        assert [len(record.boxes) for record in data.records("train")] == [1, 1]
    assert f"dropped 2 boxes {words}" in caplog.text
    with pytest.raises(UserError, match="none of the 2 images of the train split has a usable box"):
        voc_folder(tmp_path / "none", b"a\nb\n", voc_xml(box, size=size)).dataset("train")


def test_objects_without_a_name_are_no_class(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no images"):
        voc_folder(tmp_path, b"a\nb\n", voc_xml((1, 1, 20, 20), name=" ")).dataset("train")
