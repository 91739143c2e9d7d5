"""Removal from every kind of index, by every kind of name, with complete files on disk."""

import json
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbones.files import folder_lock
from data.geo.positions import read_csv
from tasks.engine.checkpoint import find_checkpoint, load_checkpoint
from tasks.gallery import blocks
from tasks.gallery.embed import Embeddings, fingerprint
from tasks.gallery.gallery import Gallery, add_to_gallery
from tasks.gallery.index import lists_of
from tests.tasks.gallery.conftest import ask, contents, refused

EXACT = ("flat", "hnsw", "ivf_sq8", "'IVF2,Flat'")
OTHERS = ("'IVF2,RaBitQ4'", "'PCA16,IVF2,PQ4x2'", "'IVF2,PQ8x4fs'")


def opened(run: Path, folder: Path) -> Gallery:
    return Gallery(folder, fingerprint(load_checkpoint(find_checkpoint(run))))


def vectors(folder: Path) -> dict[str, np.ndarray]:
    """The embeddings of a gallery's two parts, of 60 and 12 photos, by the photos' paths."""
    paths = (folder / "paths-2.txt").read_text().splitlines()
    parts = [Embeddings(folder / "embeddings" / str(i), count, 7) for i, count in enumerate((60, 12))]
    return dict(zip(paths, np.concatenate([chunk for part in parts for chunk in part.chunks()]), strict=True))


def grown(run: Path, folder: Path, index: str) -> dict[str, np.ndarray]:
    """A gallery of 60 photos and 12 that were added; their embeddings by path."""
    ask(run, mode="build", folder=folder, index=index, shard_size=7)
    ask(run, mode="add", folder=folder, source=run.parents[2] / "earth" / "val.csv")
    return vectors(folder)


def check_removed(run: Path, folder: Path, before: dict[str, np.ndarray], gone: set[str], found: bool = True) -> None:
    """What stays is found with its own position; what is gone is nowhere."""
    gallery = opened(run, folder)
    assert gallery.paths == [path for path in before if path not in gone]
    places = {}
    for table, inside in (("gallery.csv", "gallery"), ("val.csv", "val")):
        for line in (run.parents[2] / "earth" / table).read_text().splitlines()[1:]:
            name, latitude, longitude = line.split(",")[:3]
            places[Path(name).name, inside] = (float(latitude), float(longitude))
    wanted = [places[Path(path).name, Path(path).parent.name] for path in gallery.paths]
    np.testing.assert_array_equal(gallery.positions, wanted)
    near = gallery.search(np.stack([before[path] for path in gallery.paths]), 3)
    if found:
        np.testing.assert_array_equal(near.rows[:, 0], np.arange(len(gallery)))
    files = contents(folder)
    for path, vector in before.items():
        held = [name for name, content in files.items() if vector.astype("f2").tobytes() in content]
        assert bool(held) == (path not in gone), path
        if path in gone:
            assert not any(vector.astype("f4").tobytes() in content for content in files.values()), path


@pytest.mark.parametrize("index", EXACT + OTHERS)
def test_every_kind_of_index_loses_photos(index: str, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "gallery"
    before = grown(run, folder, index)
    gone = {path for path in before if path.endswith(("0.jpg", "4.jpg"))}
    assert 10 < len(gone) < 30
    listed = tmp_path / "gone.txt"
    listed.write_text("".join(f"{path}\n\n" for path in sorted(gone)))
    ask(run, mode="remove", folder=folder, source=listed)
    check_removed(run, folder, before, gone, found=index in EXACT)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("embeddings", "gallery.json", "index-3.faiss", "paths-3.txt", "positions-3.npy")
    ]
    ask(run, mode="query", folder=folder, input=next(iter(before)), output=tmp_path / "out", k=3)


def test_lists_on_disk_lose_photos(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Twice, and are added to afterwards."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4 * 256 * 20)
    folder = tmp_path / "gallery"
    before = grown(run, folder, "'IVF2,Flat'")
    gone = {path for path in before if path.endswith(("0.jpg", "4.jpg"))}
    for end in ("0.jpg", "4.jpg"):
        ask(run, mode="remove", folder=folder, source=f"{run.parents[2]}/earth/**/*{end}")
    assert lists_of(folder / "index-4.faiss").exists()
    check_removed(run, folder, before, gone)
    ask(run, mode="add", folder=folder, source=run.parents[2] / "earth" / "val.csv")
    gallery = opened(run, folder)
    assert gallery.paths[-1] in gone
    near = gallery.search(np.stack([before[path] for path in gallery.paths]), 1)
    np.testing.assert_array_equal(near.rows[:, 0], np.arange(len(gallery)))


@pytest.fixture
def folder(run: Path, built: Path, tmp_path: Path) -> Path:
    """A gallery of 60 photos of earth/gallery and 12 of earth/val."""
    shutil.copytree(built, tmp_path / "gallery")
    ask(run, mode="add", folder=tmp_path / "gallery", source=run.parents[2] / "earth" / "val.csv")
    return tmp_path / "gallery"


@pytest.mark.parametrize(
    ("source", "gone"),
    [
        ("gallery/000003.jpg", lambda path: path.endswith("gallery/000003.jpg")),
        ("link/000003.jpg", lambda path: path.endswith("gallery/000003.jpg")),
        ("val", lambda path: "/val/" in path),
        ("val/", lambda path: "/val/" in path),
        ("*/00000?.jpg", lambda path: "/00000" in path),
        ("**/*3.jpg", lambda path: path.endswith("3.jpg")),
        ("val/**", lambda path: "/val/" in path),
        ("list.txt", lambda path: path.endswith(("gallery/000007.jpg", "val/000001.jpg"))),
    ],
)
def test_photos_are_named_as_elsewhere(
    source: str,
    gone: Callable[[str], bool],
    run: Path,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By file, folder, pattern or list, and through links."""
    earth, before = run.parents[2] / "earth", vectors(folder)
    (tmp_path / "link").symlink_to(earth / "gallery")
    (tmp_path / "list.txt").write_text(f"link/000007.jpg\n\n  {earth}/gallery/../val/000001.jpg\r\n")
    wanted = {path for path in before if gone(path)}
    if "link" in source or "list" in source:
        monkeypatch.chdir(tmp_path)
    else:
        monkeypatch.chdir(earth)
    ask(run, mode="remove", folder=folder, source=f"'{source}'")
    check_removed(run, folder, before, wanted)
    said = " ".join(capsys.readouterr().err.split())
    assert f"removing {len(wanted)} of 72 photos" in said
    assert f"{72 - len(wanted)} photos" in said


def test_what_was_removed_can_be_added_again(run: Path, folder: Path) -> None:
    """A part that was removed whole, with its embeddings, and a single photo."""
    earth, before = run.parents[2] / "earth", vectors(folder)
    ask(run, mode="remove", folder=folder, source=earth / "val")
    assert [path.name for path in (folder / "embeddings").iterdir()] == ["0"]
    ask(run, mode="remove", folder=folder, source=earth / "gallery" / "000001.jpg")
    ask(run, mode="add", folder=folder, source=earth / "val.csv")
    ask(run, mode="add", folder=folder, source=earth / "gallery.csv")
    paths = opened(run, folder).paths
    assert sorted(paths) == sorted(before)
    assert paths[-1].endswith("gallery/000001.jpg")
    refused(run, "these 12 photos are in the gallery", mode="add", folder=folder, source=earth / "val.csv")


def test_what_cannot_be_removed(run: Path, folder: Path, tmp_path: Path) -> None:
    earth, before = run.parents[2] / "earth", contents(folder)
    job = {"mode": "remove", "folder": folder}
    refused(run, "mode=remove needs source=<a photo, a folder, a quoted glob", **job)
    for name in (earth / "none.jpg", earth / "gal", "/", tmp_path / "*.jpg", earth / "val.csv"):
        refused(run, f"source={name}: the gallery {folder} has no photo of that name; give a photo", **job, source=name)
    refused(run, f"source={earth} names all photos of the gallery {folder}", **job, source=earth)
    listed = tmp_path / "list.txt"
    refused(run, "list.txt cannot be read: No such file", **job, source=listed)
    listed.write_text("\n")
    refused(run, f"0 of 0 photos are not in the gallery {folder}; none was removed", **job, source=listed)
    listed.write_text(f"{earth}/gallery/000001.jpg\nnone.jpg\n\0\n")
    words = f"source={listed}: 2 of 3 photos are not in the gallery {folder}, for example 'none.jpg'; none was removed"
    refused(run, words, **job, source=listed)
    refused(run, "holds no gallery; make one with mode=build", mode="remove", folder=tmp_path / "no", source=listed)
    assert contents(folder) == before


def test_damaged_and_unfinished_galleries_lose_nothing(run: Path, folder: Path) -> None:
    job = {"mode": "remove", "folder": folder, "source": run.parents[2] / "earth" / "val"}
    (folder / "building.json").write_text("{}")
    words = f"holds an unfinished mode=add: finish it, or delete {folder / 'building.json'} and {folder}/embeddings/2"
    refused(run, words, **job)
    (folder / "building.json").unlink()
    shard = folder / "embeddings" / "0" / "000001.npy"
    whole = np.load(shard)
    for table, words in [
        (np.where(np.arange(7)[:, None] == 2, np.nan, whole).astype("f2"), "its embeddings are of other photos"),
        (whole[:, :16], "000001.npy is missing or damaged"),
        (whole[:, 0], "000001.npy is missing or damaged"),
        (whole.astype(str), "000001.npy is missing or damaged"),
    ]:
        np.save(shard, table)
        refused(run, words, **job)
    np.save(shard, whole)
    facts = json.loads((folder / "gallery.json").read_text())
    (folder / "gallery.json").write_text(json.dumps({**facts, "shard_size": 0}))
    refused(run, "gallery.json is damaged", **job)
    (folder / "gallery.json").write_text(json.dumps(facts))
    assert len(opened(run, folder)) == 72
    ask(run, **job)
    assert len(opened(run, folder)) == 60


@pytest.mark.parametrize("on_disk", [False, True])
def test_an_interrupted_removal_leaves_a_whole_gallery(
    on_disk: bool,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Interrupted before and after each file appears; repeated, it gives the same result."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4 * 256 * 20)
    start, folder = tmp_path / "start", tmp_path / "gallery"
    before = grown(run, start, "'IVF2,Flat'" if on_disk else "flat")
    job = {"mode": "remove", "source": f"{run.parents[2]}/earth/**/*3.jpg"}
    shutil.copytree(start, tmp_path / "whole")
    ask(run, **job, folder=tmp_path / "whole")
    flush, left = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    interrupted: set[int] = set()
    for moment in range(1, 100):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(start, folder)
        left = moment
        try:
            ask(run, **job, folder=folder)
        except KeyboardInterrupt:
            gallery = opened(run, folder)
            interrupted.add(len(gallery))
            near = gallery.search(np.stack([before[path] for path in gallery.paths]), 1)
            np.testing.assert_array_equal(near.rows[:, 0], np.arange(len(gallery)))
            if len(gallery) == 72:
                ask(run, **job, folder=folder)
            else:
                refused(run, "has no photo of that name", **job, folder=folder)
        else:
            break
        ours, wanted = contents(folder), contents(tmp_path / "whole")
        assert ours.keys() == wanted.keys()
        assert all(ours[name] == wanted[name] for name in ours if not name.endswith((".faiss", ".ivfdata")))
    assert 10 < moment < 99
    assert interrupted == {72, len(opened(run, folder))}


def test_photos_have_names_of_any_bytes_but_a_line_feed(run: Path, tmp_path: Path) -> None:
    """Bytes that are not UTF-8, and characters that count as line ends elsewhere."""
    photo = (run.parents[2] / "earth" / "val" / "000000.jpg").read_bytes()
    names = [b"\xff.jpg", "a\u2028b.jpg".encode(), "c\x85d.jpg".encode(), b"e\rf.jpg", b"g.jpg"]
    image, exif = Image.open(BytesIO(photo)), Image.Exif()
    exif.get_ifd(0x8825).update({1: "N", 2: (10.0, 0.0, 0.0), 3: "E", 4: (20.0, 0.0, 0.0)})
    (photos := tmp_path / "photos").mkdir()
    for name in names:
        image.save(photos / os.fsdecode(name), exif=exif)
    folder, paths = tmp_path / "gallery", [str(photos / os.fsdecode(name)) for name in names]
    ask(run, mode="build", folder=folder, source=photos)
    assert sorted(opened(run, folder).paths) == sorted(paths)
    refused(run, "these 5 photos are in the gallery", mode="add", folder=folder, source=photos)
    ask(run, mode="query", folder=folder, input=photos, output=tmp_path / "out", k=5)
    lines = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert sorted(line["file"] for line in lines) == sorted(paths)
    (listed := tmp_path / "gone.txt").write_bytes(b"\n".join(map(os.fsencode, paths[:4])))
    ask(run, mode="remove", folder=folder, source=listed)
    assert opened(run, folder).paths == paths[4:]
    image.save(photos / "h\ni.jpg", exif=exif)
    refused(run, "has a line feed in its name", mode="add", folder=folder, source=photos)


def test_an_addition_waits_until_a_removal_has_ended(run: Path, built: Path, tmp_path: Path) -> None:
    """Otherwise it would delete the files that the removal is writing."""
    folder, earth = tmp_path / "gallery", run.parents[2] / "earth"
    shutil.copytree(built, folder)
    checkpoint = load_checkpoint(find_checkpoint(run))
    places = read_csv(earth / "val.csv", earth, 0)
    written = folder / "index-2.faiss"
    with ThreadPoolExecutor(1) as pool:
        with folder_lock(folder):
            written.touch()
            adding = pool.submit(add_to_gallery, folder, checkpoint, places, batch_size=3)
            time.sleep(2)
            assert not adding.done()
            assert written.exists()
            assert not (folder / "building.json").exists()
        adding.result(timeout=300)
    assert len(opened(run, folder)) == 72


def test_what_killed_processes_left_is_removed_too(run: Path, folder: Path) -> None:
    left = [folder / ".paths-3.txt.0a.part", folder / "embeddings" / "0" / ".000000-3.npy.0b.part"]
    for path in left:
        path.write_bytes(b"an embedding")
    ask(run, mode="remove", folder=folder, source=run.parents[2] / "earth" / "val")
    assert not any(path.exists() for path in left)
