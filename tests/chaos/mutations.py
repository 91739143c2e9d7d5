"""Files of every format that is read, how each is damaged by a seed, and what reads it."""

import io
import json
import random
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from data.box_files import BoxCsvData, BoxJsonlData
from data.boxes import center_box
from data.coco import read_coco
from data.crops import decode_crop, read_crop
from data.csv_images import CsvData
from data.geo import positions as geo
from data.image_file import BadImage
from data.images import read_image
from data.layouts import recognize
from data.shards.classification import class_of
from data.shards.places import position_of
from data.tar import read_samples
from data.voc import VocData
from data.yolo import YoloData
from tests.chaos import models

TOKENS = (b"NaN", b"-1", b"1e999", b"null", b'"', b"[", b"}", b"<", b"&x;", b"]]>", b"\0", b"\xff\xfe", b"\n", b",")
WORDS = (
    *TOKENS,
    b"inf",
    b"0",
    b"-0.0",
    b"9" * 400,
    b"1e308",
    b"",
    b" ",
    b"x",
    b"../x",
    b"caf\xe9",
    b"\xef\xbb\xbf",
    b"\x1b[2J",
)
NUMBERS: tuple[Any, ...] = (-1, 0, 10**400, 1e308, float("nan"), float("inf"))
VALUES: tuple[Any, ...] = (None, True, *NUMBERS, "", "x", "../x", "\ud800", "a\0b", [], {}, [1])


def mutated(content: bytes, chance: random.Random) -> bytes:
    """The content with one to five changes: bytes, ranges and tokens set, cut, doubled, moved."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 5)):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.choice((1, 1, 2, 4, 16, 200)))
        change = chance.randrange(7)
        if change == 0:
            data[at:end] = chance.randbytes(end - at)
        elif change == 1:
            del data[at:end]
        elif change == 2:
            data[at:at] = data[at:end]
        elif change == 3:
            data[at:at] = chance.choice(TOKENS)
        elif change == 4:
            data[at:end] = chance.choice((b"\0", b"\xff")) * (end - at)
        elif change == 5 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif chance.random() < 0.3:
            del data[at:]
    return bytes(data)


def mutated_words(content: bytes, chance: random.Random) -> bytes:
    """As `mutated`, or with other numbers and names in one to three places."""
    if chance.random() < 0.3:
        return mutated(content, chance)
    for _ in range(chance.randint(1, 3)):
        word = chance.choice(list(re.finditer(rb"(?<=[>,\n])[\w.-]+", content)))
        content = content[: word.start()] + chance.choice(WORDS) + content[word.end() :]
    return content


def mutated_json(content: bytes, chance: random.Random) -> bytes:
    """As `mutated`, or still JSON with another value somewhere."""
    if chance.random() < 0.3:
        return mutated(content, chance)
    whole = json.loads(content)
    change_values(whole, chance)
    return json.dumps(whole).encode()


def change_values(whole: Any, chance: random.Random) -> None:
    """Puts other values into one to three places of nested plain values."""
    for _ in range(chance.randint(1, 3)):
        place = whole
        while isinstance(place, dict | list) and place:
            key = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
            inner = place[key]
            if not isinstance(inner, dict | list) or not inner or chance.random() < 0.2:
                if chance.random() < 0.2 and isinstance(place, dict):
                    del place[key]
                else:
                    place[key] = chance.choice(VALUES)
                break
            place = inner


def image(form: str, **settings: Any) -> bytes:
    ramp = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8).repeat(5, 0).repeat(5, 1)
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0), 3: "E", 4: (4.0, 5.0, 6.0)})
    Image.fromarray(ramp).save(buffer, form, **({} if form == "GIF" else {"exif": exif}), **settings)
    return buffer.getvalue()


def open_image_file(path: Path) -> None:
    for read in (
        lambda: read_image(path, 16)[0],
        lambda: read_crop(path, center_box, 16)[0],
    ):
        try:
            found = read()
            assert found.dtype == torch.uint8
            assert found.shape[0] == 3
        except BadImage:
            pass
    geo.exif_position(path)


def voc(path: Path) -> None:
    root = path.parent
    for name in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    (root / "Annotations" / "a.xml").write_bytes(path.read_bytes())
    photo(root / "JPEGImages")
    data = VocData(str(root), 32, train="train", val="train", workers=0)
    assert all(np.isfinite(record.boxes).all() for record in data.records("train"))
    data.dataset("train")


def photo(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "a.jpg").write_bytes(image("JPEG"))


def yolo(path: Path) -> None:
    photo(path.parent)
    (path.parent / "b.txt").write_bytes(b"0 .5 .5 .1 .1")
    data = YoloData(str(path.parent), 32, train=".", val=".", workers=0)
    assert all(np.isfinite(record.boxes).all() for record in data.records("train"))
    recognize(path.parent, "_detection")


def box_table(path: Path) -> None:
    photo(path.parent)
    kind = BoxCsvData if path.suffix == ".csv" else BoxJsonlData
    data = kind(str(path.parent), 32, train=path.name, val=path.name, workers=0)
    assert all(np.isfinite(record.boxes).all() for record in data.records("train"))
    recognize(path.parent, "_detection")


def coco(path: Path) -> None:
    labels, records = read_coco(path, path.parent)
    assert all(isinstance(label, str) for label in labels)
    assert all(np.isfinite(record.boxes).all() and np.isfinite(record.areas).all() for record in records)


def face_table(path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (path.parent / name).touch()
    settings: dict[str, Any] = {"train": path.name, "attributes": [], "max_bad": 1.0}
    CsvData(str(path.parent), 32, **settings).samples("train")


def shard(path: Path) -> None:
    for record in read_samples(str(path)):
        for read in (class_of, position_of, image_of):
            try:
                read(record)
            except BadImage:
                continue


def image_of(record: Any) -> None:
    decode_crop(record.files.get("jpg", b""), Path(record.name), center_box, 16)


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


XML = b"""<?xml version="1.0" encoding="utf-8"?><!DOCTYPE a [<!ENTITY x "y">]><annotation><size><width>40</width>
<height>30</height></size><object><name>cat</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>20</xmax><ymax>25</ymax>
</bndbox></object><object><name>dog</name><bndbox><xmin>3</xmin><ymin>2.5</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>
</object></annotation>"""
COCO = json.dumps(
    {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 40, "height": 30} for i in range(3)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": [
            {"id": i, "image_id": i % 3, "category_id": 1 + i % 2 * 4, "bbox": [i, 2, 9.5, 8], "area": 70, "iscrowd": 0}
            for i in range(5)
        ],
    }
).encode()
PLACES = b"path,latitude,longitude\n" + b"".join(b"%d.jpg,%d.5,-%d.25\n" % (i, i, 3 * i) for i in range(6))
BOXES = b"filename,class,xmin,ymin,xmax,ymax\n" + b"".join(b"a.jpg,cat,%d,2,9,9.5\n" % i for i in range(4))
OBJECTS = b'{"file_name": "a.jpg", "objects": {"bbox": [[1, 2, 3, 4], [3, 4, 5, 6.5]], "categories": [0, 1]}}'
FACES = b"path,Smiling,Young\na.jpg,1,0\nb.jpg,-1,\n"
LABEL = b'{"label": 1, "latitude": 3, "longitude": 5}'
SHARD = {f"{i}.{kind}": c for i in range(3) for kind, c in (("jpg", image("JPEG")), ("cls", b"1"), ("json", LABEL))}


def mutated_checkpoint(content: bytes, chance: random.Random) -> bytes:
    """As `mutated`, or a checkpoint with other values, mostly in its metadata."""
    if chance.random() < 0.4:
        return mutated(content, chance)
    found = torch.load(io.BytesIO(content), weights_only=True)
    change_values(found if chance.random() < 0.2 else found["suite"], chance)
    buffer = io.BytesIO()
    torch.save(found, buffer)
    return buffer.getvalue()


def mutated_header(content: bytes, chance: random.Random) -> bytes:
    """As `mutated`, or a safetensors file with other values in its header."""
    if chance.random() < 0.4:
        return mutated(content, chance)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    suite = json.loads(header["__metadata__"]["suite"])
    change_values(suite if chance.random() < 0.7 else header, chance)
    if isinstance(header.get("__metadata__"), dict) and "suite" in header["__metadata__"]:
        header["__metadata__"]["suite"] = json.dumps(suite)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


Change = Callable[[bytes, random.Random], bytes]
Form = tuple[str, bytes | Callable[[], bytes], Change, Callable[[Path], object]]
FORMATS: dict[str, Form] = {  # a file's name, its content, how it is changed and what reads it
    "jpeg": ("a.jpg", image("JPEG"), mutated, open_image_file),
    "progressive jpeg": ("a.jpg", image("JPEG", progressive=True), mutated, open_image_file),
    "png": ("a.png", image("PNG"), mutated, open_image_file),
    "webp": ("a.webp", image("WEBP"), mutated, open_image_file),
    "gif": ("a.gif", image("GIF"), mutated, open_image_file),
    "tiff": ("a.tif", image("TIFF"), mutated, open_image_file),
    "lzw tiff": ("a.tif", image("TIFF", compression="tiff_lzw"), mutated, open_image_file),
    "voc": ("source.xml", XML, mutated_words, voc),
    "coco": ("a.json", COCO, mutated_json, coco),
    "yolo": ("a.txt", b"0 .5 .5 .1 .1\n1 .1 .1 .5 .1 .5 .5\n", mutated, yolo),
    "yolo's names": ("data.yaml", b"train: images\nnc: 2\nnames:\n  0: cat\n  1: dog\n", mutated, yolo),
    "boxes": ("a.csv", BOXES, mutated_words, box_table),
    "boxes by line": ("a.jsonl", OBJECTS, mutated_json, box_table),
    "places": ("a.csv", PLACES, mutated_words, lambda path: geo.read_csv(path, path.parent, 1.0)),
    "faces": ("a.csv", FACES, mutated_words, face_table),
    "tar": ("a.tar", tarred(SHARD), mutated, shard),
    "checkpoint": ("a.ckpt", models.checkpoint, mutated_checkpoint, models.use_checkpoint),
    "safetensors": ("a.safetensors", models.safetensors, mutated_header, models.use_checkpoint),
    "weights": ("a.ckpt", models.checkpoint, mutated_checkpoint, models.use_weights),
    "keras": ("a.h5", models.keras, mutated, models.use_weights),
    "npz": ("a.npz", models.table, mutated, models.use_table),
    "gallery": ("gallery.json", lambda: models.gallery_files()["gallery.json"], mutated_json, models.use_gallery),
    "faiss": ("index-1.faiss", lambda: models.gallery_files()["index-1.faiss"], mutated, models.use_gallery),
    "npy": ("positions-1.npy", lambda: models.gallery_files()["positions-1.npy"], mutated, models.use_gallery),
    "model.json": ("model.json", lambda: models.exported()["model.json"], mutated_json, models.use_export),
}
