"""Folders of classes, tables and positions as people have them, beside those of test_layouts_images.py."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from backbones.errors import UserError
from data.celeba import read_attributes
from data.files import find_images, images_in
from data.geo.positions import read_csv
from data.image_file import ORIENTATION
from tasks.engine.config import load_config
from tasks.engine.start import build_data
from tests.data.detection_sets import coco, names, photos, read, txts
from tests.data.detection_sets import table as table_of_boxes
from tests.data.test_layouts_images import counts, images, opened, samples, table, tree


def litter(root: Path) -> None:
    """What macOS and Windows leave, in each folder, and links that lead to themselves or back up."""
    for place, folders, files in list(os.walk(root)):
        folder = Path(place)
        for name in files:
            (folder / f"._{name}").write_bytes(b"\0\5\x16\7")
        images(f"{place}/.thumbnails/1.png", f"{place}/__MACOSX/1.png", root=root)
        (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        (folder / "Thumbs.db").write_bytes(b"\xd0\xcf")
        (folder / "loop").symlink_to("loop")
        if not folders:
            (folder / "up").symlink_to(folder.parent)


def test_what_systems_leave_is_no_image(tmp_path: Path) -> None:
    tree(tmp_path, "set/train", "set/val", count=3)
    litter(tmp_path)
    assert len(images_in(tmp_path / "set")) == len(find_images(str(tmp_path / "set"))) == 12
    option, data = opened("classification", tmp_path / "set")
    assert (option, data.labels, counts(data)) == ("folders", ["a", "b"], [6, 6, 6])


def test_it_is_no_image_of_a_table(tmp_path: Path) -> None:
    images(*(f"photos/{i}.png" for i in range(10)), root=tmp_path)
    table(tmp_path, "all.csv", "name,label", *(f"{i},{i % 2}" for i in range(10)))
    litter(tmp_path)
    option, data = opened("classification", tmp_path)
    assert (option, counts(data)) == ("csv", [8, 2, 2])


@pytest.mark.parametrize("suffix", ["", "2014", "2017"])
def test_class_folders_of_splits_by_year(suffix: str, tmp_path: Path) -> None:
    tree(tmp_path, f"train{suffix}", f"val{suffix}", count=2)
    assert counts(opened("classification", tmp_path)[1]) == [4, 4, 4]


def test_a_class_that_is_called_images(tmp_path: Path) -> None:
    tree(tmp_path, "train", "val", classes=["images", "labels", "cat"], count=2)
    option, data = opened("classification", tmp_path)
    assert (option, data.labels) == ("folders", ["cat", "images", "labels"])


@pytest.mark.parametrize(
    ("folders", "setting"), [(["."], ["data.train=.", "data.val=null"]), (["train", "val"], [])], ids=["flat", "splits"]
)
def test_classes_that_are_called_images_and_labels(folders: list[str], setting: list[str], tmp_path: Path) -> None:
    """They might be images and their masks: the user must say."""
    tree(tmp_path, *folders, classes=["images", "labels"], count=5)
    hint = " ".join(["data=folders", *setting])
    with pytest.raises(UserError, match=f"if images and labels are classes, set {hint}$"):
        opened("classification", tmp_path)
    option = ["task=classification", "data=folders", *setting]
    data = build_data(load_config([*option, f"data.root={tmp_path}"]))
    data.check()
    assert data.labels == ["images", "labels"]


# --- tables -----------------------------------------------------------------------------------------------


def test_a_column_of_splits(tmp_path: Path) -> None:
    images(*(f"{i}.png" for i in range(12)), root=tmp_path)
    split = ["train"] * 6 + ["Valid"] * 4 + ["test"] * 2
    table(tmp_path, "all.csv", "name,label,Split", *(f"{i}.png,{i % 2},{split[i]}" for i in range(12)))
    _, data = opened("classification", tmp_path)
    found = {s: sorted(int(sample.path.stem) for sample in own) for s, own in samples(data).items()}
    assert found == {"train": [*range(6)], "val": [*range(6, 10)], "test": [10, 11]}
    assert "splits by the column Split" in data.choices
    assert not (tmp_path / "splits.json").exists()


@pytest.mark.parametrize("values", [["train"] * 10, ["a", "b"] * 5, ["1", "0"] * 5], ids=["one", "other", "numbers"])
def test_a_column_that_is_none_of_splits(values: list[str], tmp_path: Path) -> None:
    images(*(f"{i}.png" for i in range(10)), root=tmp_path)
    table(tmp_path, "all.csv", "name,label,split", *(f"{i}.png,{i % 2},{values[i]}" for i in range(10)))
    _, data = opened("classification", tmp_path)
    assert counts(data) == [8, 2, 2]
    assert "a random fifth for val" in data.choices


def test_a_column_of_test_alone(tmp_path: Path) -> None:
    images(*(f"{i}.png" for i in range(10)), root=tmp_path)
    lines = (f"{i}.png,{i % 2},{'test' if i > 5 else 'train'}" for i in range(10))
    table(tmp_path, "all.csv", "name,label,subset", *lines)
    assert counts(opened("classification", tmp_path)[1]) == [6, 4, 4]


@pytest.mark.parametrize("name", ["../outside.jpg", "a/../../outside.jpg", "/etc/hostname", "..", "../set2/x.jpg"])
def test_a_position_of_a_file_outside(name: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    images("outside.jpg", "set/1.png", "set2/x.jpg", root=tmp_path)
    table(root, "all.csv", "path,latitude,longitude", f"{name},1,1", *(f"{i}.png,1,{i}" for i in range(100)))
    places = read_csv(root / "all.csv", root, 0.05)
    assert len(places) == 100
    assert all(path.parent == root for path in places.paths)
    with pytest.raises(
        UserError, match=r"1 of 101 rows cannot be used: 1 with a file outside of .*set \(first: line 2"
    ):
        read_csv(root / "all.csv", root, 0.0)


def test_a_list_of_attributes_names_no_file_outside(faces: Path, tmp_path: Path) -> None:
    images("outside.png", "set/faces/1.png", root=tmp_path)
    names = ("../../outside.png", str(tmp_path / "outside.png"), "1.png")
    (tmp_path / "set" / "list.txt").write_text("3\nSmiling\n" + "".join(f"{name} 1\n" for name in names))
    with pytest.raises(UserError, match="2 of 3 rows cannot be used: 2 without an image"):
        read_attributes(tmp_path / "set" / "list.txt", tmp_path / "set" / "faces", 0.0)


@pytest.mark.parametrize(
    "name", ["../outside.jpg", "../../set2/outside.jpg", "/etc/hostname", "..", "a/../../outside.jpg"]
)
def test_annotations_name_no_file_outside(name: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    photos(root / "images", names("a", 20))
    images("outside.jpg", "set2/outside.jpg", root=tmp_path)
    coco(root / "all.json", root / "images", names("a", 20))
    content = json.loads((root / "all.json").read_text())
    content["images"][0]["file_name"] = name
    (root / "all.json").write_text(json.dumps(content))
    assert all(record.path.parent == root / "images" for record in read(root).records("train"))
    (root / "all.json").unlink()
    table_of_boxes(root / "all.csv", root / "images", names("a", 20))
    (root / "all.csv").write_text((root / "all.csv").read_text() + f"{name},40,30,cat,1,1,9,9\n")
    assert all(record.path.parent == root / "images" for record in read(root).records("train"))
    (root / "all.csv").unlink()
    txts(root / "labels", names("a", 20))
    (root / "train.txt").write_text("".join(f"images/{p.name}\n" for p in (root / "images").iterdir()) + f"{name}\n")
    assert all(record.path.parent == root / "images" for record in read(root).records("train"))


def test_an_absolute_path_inside(tmp_path: Path) -> None:
    images("a/1.png", root=tmp_path)
    table(tmp_path, "all.csv", "path,latitude,longitude", f"{tmp_path}/a/1.png,1,1", "a/./1.png,2,2")
    places = read_csv(tmp_path / "all.csv", tmp_path, 0.0)
    assert [path.resolve() for path in places.paths] == [(tmp_path / "a/1.png").resolve()] * 2


# --- photographs that EXIF turns --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("layout", ["yolo", "box_csv"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_are_those_of_the_upright_image(orientation: int, layout: str, suffix: str, tmp_path: Path) -> None:
    """A white patch, labelled in the upright image, is where its box is in what the network sees."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    rows = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
    stored = Image.new("RGB", (80, 40))
    stored.paste("white", (8, 4, 32, 12))
    for i in range(5):
        stored.save(tmp_path / "images" / f"{i}{suffix}", exif=exif)
        with Image.open(tmp_path / "images" / f"{i}{suffix}") as image:
            seen = ImageOps.exif_transpose(image)
        box = seen.getbbox()
        assert box
        left, top, right, bottom = box
        width, height = seen.size
        row = ((left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height)
        if layout == "yolo":
            (tmp_path / "labels" / f"{i}.txt").write_text("0 " + " ".join(map(str, row)))
        rows.append(f"{i}{suffix},{width},{height},patch,{left},{top},{right},{bottom}")
    if layout == "box_csv":
        (tmp_path / "boxes.csv").write_text("\n".join(rows))
    data = read(tmp_path)
    for record in data.records("val"):
        assert record.boxes.tolist() == [pytest.approx(box)]
    sample = data.dataset("val")[0]
    assert tuple(sample["size"]) == (height, width)
    left, top, right, bottom = sample["boxes"][0].round().long().tolist()
    patch = sample["image"][0, top:bottom, left:right].float()
    assert patch.mean() > 200
    assert patch.sum() > 0.9 * sample["image"][0].float().sum()
