"""Small sets of images with boxes in every layout, for tests."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from data.box_files import BoxCsvData, BoxJsonlData
from data.coco import CocoData
from data.detection import DetectionData
from data.layouts import recognize
from data.voc import VocData
from data.yolo import YoloData

OPTIONS = {"voc": VocData, "yolo": YoloData, "coco": CocoData, "box_csv": BoxCsvData, "box_jsonl": BoxJsonlData}
WIDTH, HEIGHT = 40, 30
BOX = [4.0, 3.0, 24.0, 18.0]  # of the one object of each image
CLASSES = ["cat", "dog"]
Names = list[str]


def photos(folder: Path, names: Names) -> None:
    """Images with these names (without suffix), of several file types."""
    folder.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (WIDTH, HEIGHT))
    for i, name in enumerate(names):
        image.save(folder / f"{name}{('.jpg', '.JPG', '.png')[i % 3]}")


def kind(name: str) -> str:
    """The class of the object in an image."""
    return CLASSES[int(name[-1]) % 2]


def names(split: str, count: int) -> Names:
    return [f"{split}{i}" for i in range(count)]


def xmls(folder: Path, names: Names, file_name: str = "elsewhere.jpg") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        corners = "<xmin>5</xmin><ymin>4</ymin><xmax>24</xmax><ymax>18</ymax>"  # 1-based
        thing = f"<object><name>{kind(name)}</name><bndbox>{corners}</bndbox></object>"
        (folder / f"{name}.xml").write_text(f"<annotation><filename>{file_name}</filename>{thing}</annotation>")


def txts(folder: Path, names: Names, row: str = "{} 0.35 0.35 0.5 0.5\n") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.txt").write_text(row.format(CLASSES.index(kind(name))))


def found(folder: Path, name: str) -> str:
    """The file of an image."""
    return next(p.name for p in folder.iterdir() if p.stem == name and p.suffix.lower() in (".jpg", ".png"))


def coco(path: Path, folder: Path, names: Names, prefix: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    left, top, right, bottom = BOX
    rows = [
        {
            "id": i,
            "image_id": i,
            "category_id": 3 + CLASSES.index(kind(n)),
            "bbox": [left, top, right - left, bottom - top],
        }
        for i, n in enumerate(names, start=1)
    ]
    content = {
        "images": [{"id": i, "file_name": prefix + found(folder, n)} for i, n in enumerate(names, start=1)],
        "annotations": rows,
        "categories": [{"id": 3 + i, "name": name} for i, name in enumerate(CLASSES)],
    }
    path.write_text(json.dumps(content))


HEADER = ("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax")


def table(path: Path, folder: Path, names: Names, header: tuple[str, ...] = HEADER, prefix: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text)
    if header:
        writer.writerow(header)
    for name in names:
        values = {"filename": prefix + found(folder, name), "width": WIDTH, "height": HEIGHT, "class": kind(name)}
        values |= dict(zip(HEADER[4:], BOX, strict=True))
        wanted = header or ("filename", *HEADER[4:], "class")
        writer.writerow([values[key] for key in wanted])
    path.write_text(text.getvalue())


def jsonl(folder: Path, names: Names, prefix: str = "", one_by_one: bool = False) -> None:
    rows = []
    for name in names:
        thing: object = {"bbox": [[4, 3, 20, 15]], "categories": [kind(name)]}
        if one_by_one:
            thing = [{"bbox": [4, 3, 20, 15], "category": CLASSES.index(kind(name))}]
        rows.append(json.dumps({"file_name": prefix + found(folder / prefix, name), "objects": thing}))
    with (folder / "metadata.jsonl").open("a") as file:
        file.write("\n".join(rows) + "\n")


# --- the layouts ------------------------------------------------------------------------------------------

SPLITS = {"train": 6, "val": 4, "test": 3}
DRAWN = {"train": 16, "val": 4}
LAYOUTS: dict[str, tuple[str, dict[str, int], Callable[[Path], None]]] = {}


def layout(option: str, splits: dict[str, int]) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    def add(write: Callable[[Path], None]) -> Callable[[Path], None]:
        LAYOUTS[write.__name__] = option, splits, write
        return write

    return add


@layout("voc", SPLITS)
def voc_with_lists(root: Path) -> None:
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for split, count in SPLITS.items():
        photos(root / "JPEGImages", names(split, count))
        xmls(root / "Annotations", names(split, count))
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names(split, count)))


@layout("voc", DRAWN)
def voc_without_lists(root: Path) -> None:
    photos(root / "images", names("a", 20))
    xmls(root / "annotations", names("a", 20))


@layout("voc", DRAWN)
def voc_of_oxford_pets(root: Path) -> None:
    """Some images have no .xml file; the trimaps beside these files are images, too."""
    photos(root / "images", [*names("a", 20), *names("b", 5)])
    xmls(root / "annotations" / "xmls", names("a", 20))
    photos(root / "annotations" / "trimaps", names("a", 20))
    (root / "annotations" / "list.txt").write_text("#Image CLASS-ID SPECIES BREED ID\na0 1 1 1\n")


@layout("voc", {"train": 6, "val": 3})
def voc_beside_images_test_is_val(root: Path) -> None:
    for split in ("train", "test"):
        photos(root / split, names(split, SPLITS[split]))
        xmls(root / split, names(split, SPLITS[split]))


@layout("voc", DRAWN)
def voc_beside_images(root: Path) -> None:
    photos(root, names("a", 20))
    xmls(root, names("a", 20))


@layout("voc", SPLITS)
def voc_of_split_folders(root: Path) -> None:
    for split, count in SPLITS.items():
        photos(root / "images" / split, names(split, count))
        xmls(root / "annotations" / split, names(split, count))


@layout("yolo", SPLITS)
def yolo_images_train(root: Path) -> None:
    for split, count in SPLITS.items():
        photos(root / "images" / split, names(split, count))
        txts(root / "labels" / split, names(split, count))
    (root / "data.yaml").write_text("path: ../elsewhere\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}")


@layout("yolo", SPLITS)
def yolo_train_images_with_wrong_paths(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        photos(root / folder / "images", names(split, SPLITS[split]))
        txts(root / folder / "labels", names(split, SPLITS[split]))
    (root / "data.yaml").write_text("train: ../train/images\nval: /home/me/set/images/val\nnc: 2\nnames: [cat, dog]")


@layout("yolo", DRAWN)
def yolo_flat_with_classes_txt(root: Path) -> None:
    photos(root / "images", names("a", 20))
    txts(root / "labels", names("a", 20))
    (root / "labels" / "classes.txt").write_text("cat\ndog\n")


@layout("yolo", DRAWN)
def yolo_beside_images(root: Path) -> None:
    photos(root, names("a", 20))
    txts(root, names("a", 20), "{} 0.1 0.1 0.6 0.1 0.6 0.6 0.1 0.6\n")  # polygons
    (root / "dataset.yml").write_text("names: [cat, dog]")


@layout("yolo", {"train": 6, "val": 4})
def yolo_of_lists(root: Path) -> None:
    for split in ("train", "val"):
        photos(root / "images", names(split, SPLITS[split]))
        txts(root / "labels", names(split, SPLITS[split]))
        files = [found(root / "images", name) for name in names(split, SPLITS[split])]
        (root / f"{split}.txt").write_text("".join(f"/home/me/set/images/{file}\n" for file in files))
    (root / "data.yaml").write_text("train: train.txt\nval: val.txt\nnames: [cat, dog]")


@layout("coco", {"train": 6, "val": 4})
def coco_2017(root: Path) -> None:
    for split in ("train", "val"):
        photos(root / f"{split}2017", names(split, SPLITS[split]))
        for what in ("instances", "person_keypoints"):
            coco(root / f"annotations/{what}_{split}2017.json", root / f"{split}2017", names(split, SPLITS[split]))


@layout("coco", SPLITS)
def coco_of_roboflow(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        photos(root / folder, names(split, SPLITS[split]))
        coco(root / folder / "_annotations.coco.json", root / folder, names(split, SPLITS[split]))


@layout("coco", {"train": 6, "val": 4})
def coco_annotations_train(root: Path) -> None:
    for split in ("train", "val"):
        photos(root / "images", names(split, SPLITS[split]))
        coco(root / "annotations" / f"{split}.json", root / "images", names(split, SPLITS[split]), "images/")


@layout("coco", {"train": 6, "val": 4})
def coco_images_train(root: Path) -> None:
    for split in ("train", "val"):
        photos(root / "images" / split, names(split, SPLITS[split]))
        coco(root / f"{split}.json", root / "images" / split, names(split, SPLITS[split]))


@layout("coco", DRAWN)
def coco_one_file(root: Path) -> None:
    photos(root / "images", names("a", 20))
    coco(root / "result.json", root / "images", names("a", 20), "/data/upload/")


@layout("coco", DRAWN)
def coco_beside_images(root: Path) -> None:
    photos(root, names("a", 20))
    coco(root / "labels.json", root, names("a", 20))


@layout("box_csv", {"train": 6, "val": 3})
def csv_of_tensorflow(root: Path) -> None:
    for split in ("train", "test"):
        photos(root / "images" / split, names(split, SPLITS[split]))
        table(root / "data" / f"{split}_labels.csv", root / "images" / split, names(split, SPLITS[split]))
        (root / "data" / f"{split}_labels.csv").rename(root / f"{split}_labels.csv")


@layout("box_csv", SPLITS)
def csv_of_roboflow(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        photos(root / folder, names(split, SPLITS[split]))
        table(root / folder / "_annotations.csv", root / folder, names(split, SPLITS[split]))


@layout("box_csv", DRAWN)
def csv_of_retinanet(root: Path) -> None:
    photos(root / "images", names("a", 20))
    table(root / "annotations.csv", root / "images", names("a", 20), (), "/home/me/images/")


@layout("box_jsonl", {"train": 6, "val": 4})
def imagefolder(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "validation")):
        photos(root / folder, names(split, SPLITS[split]))
        jsonl(root / folder, names(split, SPLITS[split]))


@layout("box_jsonl", {"train": 6, "val": 4})
def imagefolder_with_one_file(root: Path) -> None:
    for split in ("train", "val"):
        photos(root / split, names(split, SPLITS[split]))
        jsonl(root, names(split, SPLITS[split]), f"{split}/", one_by_one=True)


def read(root: Path) -> DetectionData:
    return OPTIONS[recognize(root, "_detection").option](str(root), 32, workers=0)
