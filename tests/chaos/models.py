"""Files of models, weights and galleries for `tests.chaos.mutations`."""

import io
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from backbones.weights import build_mobilenet_v1
from tasks import load
from tasks.distill.load import teacher_labels
from tasks.engine.checkpoint import load_checkpoint
from tasks.engine.config import load_config
from tasks.engine.options import locate
from tasks.engine.task import restore
from tasks.export.__main__ import execute as export
from tasks.gallery.gallery import Gallery, GalleryInfo, Part
from tasks.gallery.index import make_index, write_index
from tests.backbones.test_weights import keras_file

PHOTOS, DIM = 60, 8


@cache
def suite_content() -> dict[str, Any]:
    """A checkpoint of an untrained classifier."""
    small = ("task=classification", "backbone.alpha=0.05", "task.resolution=32", "backbone.pretrained=false")
    config = load_config([*small, "data=folders"])
    module = locate(config, "task")(config, ["a", "b"])
    found: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(found)
    return found


@cache
def checkpoint() -> bytes:
    buffer = io.BytesIO()
    torch.save(suite_content(), buffer)
    return buffer.getvalue()


@cache
def safetensors() -> bytes:
    state = {name: tensor.contiguous() for name, tensor in suite_content()["state_dict"].items()}
    return save(state, {"suite": json.dumps(suite_content()["suite"]), "input": "uint8_nhwc"})


@cache
def keras() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return keras_file(Path(folder) / "x.h5", 0.25).read_bytes()


@cache
def table() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, files=np.array(["a.jpg", "b.jpg"]), labels=np.array(["x", "y"]), outputs=np.eye(2) * 0.9 + 0.05)
    return buffer.getvalue()


@cache
def gallery_files() -> dict[str, bytes]:
    """The files of a gallery: its facts, index, positions and paths."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(PHOTOS, DIM)).astype(np.float32)
    index = make_index("IVF4,PQ4x4", DIM)
    index.train(vectors)
    index.add(vectors)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        GalleryInfo("model", DIM, 8, "IVF4,PQ4x4", PHOTOS, [Part("0", PHOTOS, "digest")]).write(folder)
        write_index(index, folder / "index-1.faiss")
        np.save(folder / "positions-1.npy", rng.uniform(-80, 80, (PHOTOS, 2)))
        (folder / "paths-1.txt").write_text("".join(f"/photos/{i}.jpg\n" for i in range(PHOTOS)))
        return {path.name: path.read_bytes() for path in folder.iterdir()}


@cache
def exported() -> dict[str, bytes]:
    """An export's folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "x.ckpt").write_bytes(checkpoint())
        data = folder / "data"
        for split in ("train", "val"):
            for label in ("a", "b"):
                (data / split / label).mkdir(parents=True)
                for i in range(2):
                    image = np.full((40, 40, 3), 40 * i, np.uint8)
                    Image.fromarray(image).save(data / split / label / f"{i}.png")
        made = export([f"ckpt={folder / 'x.ckpt'}", f"root={data}", f"output={folder / 'out'}", "max_drop=100"])
        return {path.name: path.read_bytes() for path in made.iterdir() if path.is_file()}


def use_checkpoint(path: Path) -> None:
    restore(load_checkpoint(path))


def use_weights(path: Path) -> None:
    build_mobilenet_v1(alpha=0.25, weights=str(path))


def use_table(path: Path) -> None:
    teacher_labels(str(path))


def use_gallery(path: Path) -> None:
    """Searches a gallery that has this file among its own."""
    for name, content in gallery_files().items():
        if name != path.name:
            (path.parent / name).write_bytes(content)
    found = Gallery(path.parent, "model").search(np.ones((2, DIM), np.float32), 3)
    assert found.rows.shape == (2, 3)


def use_export(path: Path) -> None:
    for name, content in exported().items():
        if name != path.name:
            (path.parent / name).write_bytes(content)
    model = load(str(path.parent))
    for result in model.predict([np.zeros((40, 30, 3), np.uint8)]):
        json.dumps(result.to_dict())
