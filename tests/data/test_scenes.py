"""The demo detection set: reproducible, valid COCO, tight boxes, and never half written."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from backbones.errors import UserError
from data.demo import generate, scenes
from tests.conftest import TINY, command


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "scenes"
    scenes.write_scenes(folder, train=60, val=5)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_seed_same_bytes_whatever_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    scenes.write_scenes(tmp_path / "one", train=9, val=2, size=128)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    spawned = partial(ProcessPoolExecutor, mp_context=multiprocessing.get_context("spawn"))
    monkeypatch.setattr(generate, "ProcessPoolExecutor", spawned)
    scenes.write_scenes(tmp_path / "two", train=9, val=2, size=128)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(contents(tmp_path / "one")) == 9 + 2 + 2 + 1  # images, json, demo.json


def test_an_image_depends_on_its_seed_split_and_index_alone(root: Path, tmp_path: Path) -> None:
    for split in scenes.SPLITS:
        (tmp_path / split).mkdir()
    rendered = {}
    for seed, split, index in ((0, "train", 3), (0, "val", 3), (0, "train", 4), (1, "train", 3)):
        scenes.write_scene(tmp_path, 320, seed, (split, index))
        path = Path(split) / f"{index:06d}.jpg"
        rendered[seed, split, index] = (tmp_path / path).read_bytes()
        assert seed or rendered[seed, split, index] == (root / path).read_bytes()
    assert len(set(rendered.values())) == 4


@pytest.mark.parametrize(("split", "count"), [("train", 60), ("val", 5)])
def test_coco_file_matches_the_images(root: Path, split: str, count: int) -> None:
    coco = COCO(str(root / f"{split}.json"))
    assert len(coco.imgs) == len(list((root / split).iterdir())) == count
    assert [category["name"] for category in coco.cats.values()] == list(scenes.KINDS)
    assert min(coco.cats) == min(coco.anns) == 1  # COCOeval takes the annotation id 0 for "no match"
    for image in coco.imgs.values():
        with Image.open(root / split / image["file_name"]) as photo:
            assert photo.size == (image["width"], image["height"])
            assert photo.mode == "RGB"
    for annotation in coco.anns.values():
        image = coco.imgs[annotation["image_id"]]
        x, y, width, height = annotation["bbox"]
        assert 0 <= x < x + width <= image["width"]
        assert 0 <= y < y + height <= image["height"]
        assert 0 < annotation["area"] <= width * height
        assert annotation["iscrowd"] == 0


def test_the_set_is_varied(root: Path) -> None:
    coco = COCO(str(root / "train.json"))
    assert len(scenes.KINDS) >= 8
    assert {annotation["category_id"] for annotation in coco.anns.values()} == set(coco.cats)
    assert len({(image["width"], image["height"]) for image in coco.imgs.values()}) >= 3
    assert max(len(annotations) for annotations in coco.imgToAnns.values()) <= 7
    longer = [max(annotation["bbox"][2:]) for annotation in coco.anns.values()]
    assert np.mean([40 <= side <= 140 for side in longer]) > 0.75


def test_some_images_are_empty() -> None:
    counts = [len(scenes.render_scene(96, np.random.default_rng([0, 0, i]))[1]) for i in range(120)]
    assert 0 < counts.count(0) < 12


def silhouette(image: Image.Image, corner: tuple[int, int], size: tuple[int, int]) -> set[tuple[int, int]]:
    """The pixels (x, y) of an image that a thing covers by half or more."""
    alpha = np.asarray(image.getchannel("A"))
    covered = set()
    for y in range(image.height):
        for x in range(image.width):
            at = x + corner[0], y + corner[1]
            if alpha[y, x] >= 128 and 0 <= at[0] < size[0] and 0 <= at[1] < size[1]:
                covered.add(at)
    return covered


@pytest.mark.parametrize("seed", range(6))
def test_boxes_are_tight_and_things_in_sight(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    placed: list[tuple[str, Image.Image, tuple[int, int]]] = []
    draw_thing, place = scenes.draw_thing, scenes.place

    def recording_draw_thing(draw: scenes.Drawing, *rest: Any) -> Image.Image:
        drawn.append(draw.__name__)
        return draw_thing(draw, *rest)

    def recording_place(image: Image.Image, *rest: Any) -> object:
        found = place(image, *rest)
        if found:
            placed.append((drawn[-1], image, found[0]))
        return found

    monkeypatch.setattr(scenes, "draw_thing", recording_draw_thing)
    monkeypatch.setattr(scenes, "place", recording_place)
    photo, annotations = scenes.render_scene(160, np.random.default_rng(seed))
    expected = []
    nearer: set[tuple[int, int]] = set()
    for kind, image, corner in placed:  # the nearest first
        pixels = silhouette(image, corner, photo.size)
        whole = silhouette(image, (0, 0), image.size)
        assert len(pixels - nearer) >= scenes.MIN_VISIBLE * len(whole)
        nearer |= pixels
        if kind in scenes.KINDS:
            left, top = min(x for x, _ in pixels), min(y for _, y in pixels)
            right, bottom = max(x for x, _ in pixels) + 1, max(y for _, y in pixels) + 1
            category = list(scenes.KINDS).index(kind) + 1
            expected.append((category, (left, top, right - left, bottom - top), len(pixels)))
    assert [(a["category_id"], a["bbox"], a["area"]) for a in annotations] == expected


@pytest.mark.parametrize("kind", scenes.KINDS)
@pytest.mark.parametrize("side", [24, 100])
def test_a_thing_is_as_large_as_asked_and_not_cut(kind: str, side: int) -> None:
    light = np.array([0.0, -0.6, 0.8], np.float32)
    for seed in range(3):
        image = scenes.draw_thing(scenes.KINDS[kind], side, light, np.random.default_rng(seed))
        assert 0.75 * side < max(image.size) < 1.35 * side


def test_a_stopped_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            scenes.write_scenes(tmp_path / "scenes", train=2, val=1, size=96)
    assert not list(tmp_path.iterdir())
    scenes.write_scenes(tmp_path / "scenes", train=2, val=1, size=96)
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"]


def test_a_complete_set_is_left_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "ProcessPoolExecutor", None)  # drawing anything would fail
    scenes.write_scenes(root, train=60, val=5)
    with pytest.raises(UserError, match=r"delete it or name another folder"):
        scenes.write_scenes(root, train=60, val=5, seed=1)


@pytest.mark.parametrize("damage", ["image", "json", "split", "other"])
def test_anything_else_there_is_refused_and_kept(root: Path, tmp_path: Path, damage: str) -> None:
    copy = tmp_path / "scenes"
    shutil.copytree(root, copy)
    if damage == "image":
        (copy / "val" / "000002.jpg").unlink()
    elif damage == "json":
        (copy / "train.json").write_text("[1, 2")
    elif damage == "split":
        shutil.rmtree(copy / "val")
    else:
        shutil.rmtree(copy)
        copy.mkdir()
        (copy / "train.json").write_text(json.dumps([1, 2]))
    before = contents(copy)
    with pytest.raises(UserError, match=str(copy)):
        scenes.write_scenes(copy, train=60, val=5)
    assert contents(copy) == before


def test_another_set_is_refused_in_one_line(root: Path, tmp_path: Path) -> None:
    settings = ("data=demo_scenes", f"data.root={root}", f"paths.runs={tmp_path}")
    result = command("run", *settings, *TINY, "data.seed=1")
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert f"{root} is not the demo set for " in line
    assert "Traceback" not in result.stderr


def test_two_runs_at_once_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def overtaken(source: Path, target: Path) -> None:
        shutil.copytree(source, target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", overtaken)
    scenes.write_scenes(tmp_path / "scenes", train=2, val=1, size=96)
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"]


def test_torch_is_not_needed() -> None:
    code = "import sys, data.demo.scenes; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
