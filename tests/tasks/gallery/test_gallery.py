"""The geo task and its gallery through their commands: train, embed in several processes, be killed, answer, refuse."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from backbones.errors import UserError
from data.crops import read_whole
from data.geo.positions import read_csv
from data.geo.sphere import great_circle_km, positions_of
from tasks.engine.checkpoint import find_checkpoint, load_checkpoint
from tasks.engine.task import restore
from tasks.gallery.__main__ import main
from tasks.gallery.embed import Embeddings
from tasks.gallery.index import read_index
from tasks.geo.model import GeoLocator
from tests.conftest import ROOT, command, wait_until
from tests.tasks.gallery.conftest import ask, contents, put, refused

ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


# --- the run -------------------------------------------------------------------------------------------


def test_a_run_has_maps_partitions_and_metrics(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    shares = [metrics[f"within_{km}km"] for km in (1, 25, 200, 750, 2500)]
    assert shares == sorted(shares)
    assert metrics["primary"] == metrics["mean_share"] == pytest.approx(sum(shares) / 5)
    assert 0 < metrics["median_km"] < 20_016
    for name in ("cells.png", "errors.png"):
        assert Image.open(run / name).size == (1440, 720)
    heads = {label.partition("/")[0] for label in load_checkpoint(run)["suite"]["labels"]}
    assert {p.name for p in run.glob("cells-*.csv")} == {f"cells-{head}.csv" for head in heads}
    tags = EventAccumulator(str(run)).Reload().Tags()
    assert {"cells", "errors", "predictions"} <= set(tags["images"])
    assert "val/median_km" in tags["scalars"]


def test_predict_prints_the_place_and_draws_the_map(run: Path, tmp_path: Path) -> None:
    photo = run.parents[2] / "earth" / "val" / "000003.jpg"
    result = command("predict", f"ckpt={run}", f"input={photo}", f"output={tmp_path}")
    assert result.returncode == 0, result.stderr
    answer = json.loads((tmp_path / "predictions.jsonl").read_text())
    assert f"{photo}: {answer['latitude']:.3f}, {answer['longitude']:.3f}" in result.stdout
    assert re.search(r"; \d+% within 200 km", result.stdout)
    assert 0 <= answer["confidence"] <= 1
    assert len(answer["cells"]) == 5
    assert Image.open(tmp_path / "000003.jpg.jpg").size == (512, 512)


def test_cost_counts_the_head() -> None:
    """The backbone's multiply-adds of Table 2's network without its classifier, and the head's own."""
    result = command("cost", "task=geo", "task.num_classes=9800", "format=json")
    content = json.loads(result.stdout)
    assert content["layers"]["fully connected"] == [1024 * 9800, 1025 * 9800]
    assert content["madds"] == 567_716_352 + 1024 * 9800


# --- building ------------------------------------------------------------------------------------------


def test_a_gallery_says_what_it_holds(built: Path) -> None:
    facts = json.loads((built / "gallery.json").read_text())
    assert (facts["photos"], facts["dim"], facts["factory"]) == (60, 256, "Flat")
    assert np.load(built / "positions-1.npy").shape == (60, 2)
    assert len((built / "paths-1.txt").read_text().splitlines()) == 60
    assert len(list((built / "embeddings" / "0").iterdir())) == 9  # shards of 7


def test_embeddings_are_those_of_the_model(run: Path, built: Path) -> None:
    """Read in threads and embedded in bfloat16, if it is fast here, against one photo at a time in float32."""
    checkpoint = load_checkpoint(find_checkpoint(run))
    model, paths = restore(checkpoint).model, (built / "paths-1.txt").read_text().splitlines()
    found = np.concatenate(list(Embeddings(built / "embeddings" / "0", 60, 7).chunks()))
    assert isinstance(model, GeoLocator)
    for row in range(0, 60, 9):
        with torch.inference_mode():
            images = read_whole(Path(paths[row]), 64)[None]
            expected = model.image_vectors(model.preprocess(images))[0].numpy()
        assert found[row] @ expected > 0.999


def test_two_processes_make_what_one_makes(run: Path, built: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    settings = [f"ckpt={run}", "mode=build", "shard_size=7", "batch_size=3", f"folder={tmp_path}"]
    process = subprocess.run(
        [*torchrun, "-m", "tasks.gallery", *settings],
        cwd=ROOT,
        env=ALONE,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert contents(tmp_path) == contents(built)


def test_a_killed_build_goes_on(run: Path, tmp_path: Path) -> None:
    source = run.parents[2] / "earth" / "train.csv"
    arguments = [f"ckpt={run}", "mode=build", "shard_size=2", "batch_size=2", f"source={source}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.gallery", *arguments, f"folder={tmp_path / 'killed'}"],
        cwd=ROOT,
        env=ALONE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    shards = tmp_path / "killed" / "embeddings" / "0"
    wait_until(lambda: len(list(shards.glob("*.npy"))) >= 5, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "gallery.json").exists()
    with pytest.raises(UserError, match=r"holds no gallery; make one with mode=build"):
        ask(run, mode="evaluate", folder=tmp_path / "killed", output=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in shards.glob("[0-9]*.npy")}
    assert 5 <= len(before) < 80

    for folder in ("killed", "whole"):
        ask(run, mode="build", shard_size=2, batch_size=2, source=source, folder=tmp_path / folder)
    assert {path: path.stat().st_mtime_ns for path in before} == before  # not computed again
    killed, whole = (tmp_path / folder for folder in ("killed", "whole"))
    assert (killed / "gallery.json").read_bytes() == (whole / "gallery.json").read_bytes()
    assert (killed / "paths-1.txt").read_bytes() == (whole / "paths-1.txt").read_bytes()
    one, other = (read_index(f / "index-1.faiss", mapped=False).reconstruct_n(0, 160) for f in (killed, whole))
    np.testing.assert_allclose(one, other, atol=2e-3)  # the killed process had one thread


def test_photos_are_added_without_training_anew(run: Path, built: Path, tmp_path: Path) -> None:
    folder, earth = tmp_path / "gallery", run.parents[2] / "earth"
    ask(run, mode="build", folder=folder, index="'IVF2,Flat'")
    first = read_index(folder / "index-1.faiss", mapped=False)  # kept, for FAISS frees what belongs to it
    centres = first.quantizer.reconstruct_n(0, 2)
    ask(run, mode="add", folder=folder, source=earth / "val.csv")
    index = read_index(folder / "index-2.faiss", mapped=False)
    assert index.ntotal == 72
    np.testing.assert_array_equal(index.quantizer.reconstruct_n(0, 2), centres)
    assert json.loads((folder / "gallery.json").read_text())["photos"] == 72
    (folder / "paths-1.txt").touch()  # as left by a process that was killed during its cleanup
    with pytest.raises(UserError, match=r"these 12 photos are in the gallery .* already"):
        ask(run, mode="add", folder=folder, source=earth / "val.csv")
    assert {path.name for path in folder.glob("*-?.*")} == {"index-2.faiss", "positions-2.npy", "paths-2.txt"}
    with pytest.raises(UserError, match="holds a gallery of 72 photos already; use mode=add or another folder"):
        ask(run, mode="build", folder=folder)
    # photos of the gallery find themselves
    ask(run, mode="query", folder=folder, input=earth / "val" / "000001.jpg", output=tmp_path / "out", k=3)
    answer = json.loads((tmp_path / "out" / "answers.jsonl").read_text())
    assert answer["neighbours"][0]["path"] == str((earth / "val" / "000001.jpg").resolve())
    assert answer["neighbours"][0]["similarity"] > 0.999


def test_a_photo_is_in_a_gallery_once(
    run: Path, built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that has grown, and the same one by another path."""
    folder, earth = tmp_path / "gallery", run.parents[2] / "earth"
    shutil.copytree(built, folder)
    lines = (earth / "val.csv").read_text().splitlines(keepends=True)
    (tmp_path / "val").symlink_to(earth / "val")
    table = tmp_path / "table.csv"
    table.write_text("".join(lines[:6]))
    ask(run, mode="add", folder=folder, source=table)
    table.write_text("".join(lines))
    ask(run, mode="add", folder=folder, source=table)
    assert "5 of 12 photos are in the gallery already" in " ".join(capsys.readouterr().err.split())  # rich wraps it
    paths = (folder / "paths-3.txt").read_text().splitlines()
    assert len(paths) == len(set(paths)) == 72
    positions = np.load(folder / "positions-3.npy")
    assert np.array_equal(positions[60:], np.loadtxt(lines[1:], delimiter=",", usecols=(1, 2)))
    monkeypatch.chdir(tmp_path)
    refused(run, "these 12 photos are in the gallery", mode="add", folder=folder, source="table.csv")


def test_unreadable_photos_are_left_out(run: Path, tmp_path: Path) -> None:
    earth = run.parents[2] / "earth"
    (tmp_path / "torn.jpg").write_bytes(b"")
    (tmp_path / "val").symlink_to(earth / "val")
    good = [f"val/{i:06d}.jpg,1.0,{i}.0" for i in range(5)]
    (tmp_path / "some.csv").write_text("\n".join(["path,latitude,longitude", "torn.jpg,9.0,9.0", *good]))
    ask(run, mode="build", folder=tmp_path / "gallery", source=tmp_path / "some.csv")
    assert np.load(tmp_path / "gallery" / "positions-1.npy").tolist() == [[1.0, float(i)] for i in range(5)]
    (tmp_path / "none.csv").write_text("path,latitude,longitude\ntorn.jpg,9.0,9.0\n")
    with pytest.raises(UserError, match="none of the 1 photos of the gallery can be read"):
        ask(run, mode="build", folder=tmp_path / "empty", source=tmp_path / "none.csv")


# --- answering -----------------------------------------------------------------------------------------


def test_the_three_ways_side_by_side(run: Path, built: Path, tmp_path: Path) -> None:
    result = command("gallery", f"ckpt={run}", f"output={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert "12 photos, gallery of 60" in result.stdout
    found = json.loads((tmp_path / "evaluation.json").read_text())
    places = read_csv(run.parents[2] / "earth" / "val.csv", run.parents[2] / "earth", 0)
    module = restore(load_checkpoint(find_checkpoint(run)))
    with torch.inference_mode():
        images = module.model.preprocess(torch.stack([read_whole(path, module.resolution) for path in places.paths]))
        directions = module.model.postprocess(module.model(images)).directions.double().numpy()
    wanted = np.median(great_circle_km(positions_of(directions), places.positions))
    assert found["classification"]["median_km"] == pytest.approx(wanted, rel=1e-4)
    assert {"classification", "retrieval", "fusion"} <= found.keys()
    assert Image.open(tmp_path / "errors.png").size == (1440, 720)


def test_a_query_answers_with_a_place_and_a_map(
    run: Path, built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run.parents[2] / "earth" / "val"
    ask(run, mode="query", input=folder, output=tmp_path)
    printed = capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    for line in lines:
        assert f"{line['file']}: {line['fusion']['latitude']:.3f}, {line['fusion']['longitude']:.3f}" in printed
        assert len(line["neighbours"]) == 10
    assert Image.open(tmp_path / "000000.jpg.png").size == (1024, 640)


def test_photos_of_one_stem_have_a_map_each(run: Path, built: Path, tmp_path: Path) -> None:
    photos = sorted((run.parents[2] / "earth" / "val").glob("*.jpg"))[:2]
    for photo, name in zip(photos, ("a.jpg", "b/a.jpg"), strict=True):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(photo.read_bytes())
    (tmp_path / "in" / "a.png").write_bytes(photos[0].read_bytes())
    none = {"mode": "query", "input": tmp_path / "in", "output": tmp_path / "none"}
    refused(run, "none of the 3 files could be read", **none, max_pixels=9)
    ask(run, mode="query", input=tmp_path / "in", output=tmp_path / "out")
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    assert found == {"a.jpg.png", "a.png.png", "b/a.jpg.png"}


@pytest.mark.parametrize("most", [0, 3])
def test_a_photo_of_which_few_neighbours_are_found_or_none(
    most: int, run: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with an approximate index; without any neighbour, the classifier answers alone."""

    class Approximate:
        def __init__(self, path: Path) -> None:
            self.index: Any = read_index(path)
            self.ntotal, self.d = self.index.ntotal, self.index.d

        def search(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            similarities, rows = self.index.search(vectors, k)
            similarities[:, most:], rows[:, most:] = np.finfo(np.float32).min, -1
            return similarities, rows

    monkeypatch.setattr("tasks.gallery.gallery.read_index", Approximate)
    ask(run, mode="query", input=run.parents[2] / "earth" / "val", output=tmp_path)
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert len(lines) == 12
    for line in (json.loads(line, parse_constant=pytest.fail) for line in lines):
        assert len(line["neighbours"]) == most
        assert (line["retrieval"] == pytest.approx(line["classification"], abs=1e-4)) == (not most)
    ask(run, mode="evaluate", output=tmp_path)
    found = json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert (found["retrieval"] == pytest.approx(found["classification"], abs=1e-3)) == (not most)


# --- refusals ------------------------------------------------------------------------------------------


def test_k_larger_than_the_gallery(run: Path, built: Path, tmp_path: Path) -> None:
    refused(run, "k=61 is more than the 60 photos of the gallery", k=61, output=tmp_path)
    result = command("gallery", f"ckpt={run}", "k=61", f"output={tmp_path}")
    assert (result.returncode, result.stdout) == (2, "")
    assert [x for x in result.stderr.splitlines() if x.startswith("error: k=61 is more than")]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("mode=add part=0 of=2", "error: part=0 has no effect on mode=add: it is for mode=build"),
        ("input=a.jpg", "error: input=a.jpg has no effect on mode=evaluate: it is for mode=query"),
        ("mode=remove k=3", "error: k=3 has no effect on mode=remove: it is for mode=evaluate or query"),
        ("mode=build part=0 output=a", "error: output=a has no effect on mode=build: it is for mode=evaluate or query"),
    ],
)
def test_a_setting_of_another_mode(
    settings: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gallery", "ckpt=none", *settings.split()])
    with pytest.raises(SystemExit):
        main()
    assert words in capsys.readouterr().err


def test_a_gallery_of_another_model(run: Path, built: Path, tmp_path: Path) -> None:
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    name = next(n for n in content["state_dict"] if n.startswith("model.backbone.") and n.endswith("conv.weight"))
    content["state_dict"][name] = content["state_dict"][name] + 1e-3
    torch.save(content, tmp_path / "other.ckpt")
    for mode in ("evaluate", "add"):
        words = "was built by another model"
        more = {"source": run.parents[2] / "earth" / "val.csv"} if mode == "add" else {}
        refused(tmp_path / "other.ckpt", words, mode=mode, folder=built, output=tmp_path / "out", **more)


def test_a_gallery_of_a_newer_version(run: Path, built: Path, tmp_path: Path) -> None:
    shutil.copytree(built, tmp_path / "gallery")
    facts = json.loads((built / "gallery.json").read_text())
    (tmp_path / "gallery" / "gallery.json").write_text(json.dumps({**facts, "version": 99}))
    refused(run, "written by a newer version", mode="evaluate", folder=tmp_path / "gallery", output=tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("index-1.faiss", "pipe", "is missing or damaged: build the gallery again"),
        ("positions-1.npy", "pipe", "it is not a regular file"),
        ("gallery.json", "pipe", "gallery.json is damaged"),
        ("index-1.faiss", b"torn", "is missing or damaged: build the gallery again"),
        ("index-1.faiss", None, "is missing or damaged: build the gallery again"),
        ("positions-1.npy", b"torn", "is damaged"),
        ("paths-1.txt", b"one.jpg\n", "its files do not fit together; build it again"),
        ("gallery.json", b"{", "gallery.json is damaged"),
        ("gallery.json", b'{"model": "x"}', "gallery.json is damaged"),
        ("gallery.json", None, "holds no gallery; make one with mode=build"),
    ],
)
def test_damaged_galleries(
    name: str, content: bytes | str | None, words: str, run: Path, built: Path, tmp_path: Path
) -> None:
    shutil.copytree(built, tmp_path / "gallery")
    put(tmp_path / "gallery" / name, content)
    refused(run, words, folder=tmp_path / "gallery", output=tmp_path / "out")


def test_half_done_jobs_are_not_mixed(run: Path, built: Path, tmp_path: Path) -> None:
    folder, earth = tmp_path / "gallery", run.parents[2] / "earth"
    shutil.copytree(built, folder)
    index = (folder / "index-1.faiss").read_bytes()
    (folder / "index-1.faiss").write_bytes(b"torn")  # noticed only after all photos are embedded
    refused(run, "index-1.faiss", mode="add", folder=folder, source=earth / "val.csv")
    (folder / "index-1.faiss").write_bytes(index)
    fewer = tmp_path / "fewer.csv"
    fewer.write_text("".join((earth / "val.csv").read_text().splitlines(keepends=True)[:5]))
    shutil.copytree(earth / "val", tmp_path / "val")
    refused(run, "unfinished embeddings of another model or of other photos", mode="add", folder=folder, source=fewer)
    shard = folder / "embeddings" / "1" / "000001.npy"
    whole = shard.read_bytes()
    for content in (b"torn", "pipe"):
        put(shard, content)
        refused(run, "000001.npy is missing or damaged; delete it", mode="add", folder=folder, source=earth / "val.csv")
    put(shard, whole)
    for content in (b"{", "pipe"):
        put(folder / "building.json", content)
        refused(run, "building.json is damaged; delete it", mode="add", folder=folder, source=earth / "val.csv")


def test_embeddings_of_an_earlier_gallery_are_not_used(run: Path, built: Path, tmp_path: Path) -> None:
    """Nor blocks of its index, after the user has deleted gallery.json."""
    folder, earth = tmp_path / "gallery", run.parents[2] / "earth"
    shutil.copytree(built, folder)
    ask(run, mode="add", folder=folder, source=earth / "val.csv")
    (folder / "blocks-0-x").mkdir()
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    name = next(n for n in content["state_dict"] if n.startswith("model.backbone.") and n.endswith("conv.weight"))
    content["state_dict"][name] = content["state_dict"][name] + 1e-3
    torch.save(content, tmp_path / "other.ckpt")
    (folder / "gallery.json").unlink()
    job = {"mode": "build", "folder": folder, "shard_size": 7, "batch_size": 3}
    refused(tmp_path / "other.ckpt", f"{folder / 'embeddings' / '0'} holds embeddings of an earlier gallery", **job)
    shutil.rmtree(folder / "embeddings" / "0")
    ask(tmp_path / "other.ckpt", **job)
    assert not (folder / "blocks-0-x").exists()
    job = {"mode": "add", "folder": folder, "source": earth / "val.csv"}
    refused(tmp_path / "other.ckpt", f"{folder / 'embeddings' / '1'} holds embeddings of an earlier gallery", **job)


def test_other_mistakes(run: Path, built: Path, tmp_path: Path) -> None:
    refused(run, "mode=add needs source=", mode="add")
    refused(run, "none.csv cannot be read: No such file", mode="build", source="none.csv", folder=tmp_path)
    refused(run, "there is no image of that name", mode="query", input=tmp_path / "none.jpg")
    refused(run, "index=tree is neither", mode="build", index="tree", folder=tmp_path / "new")
    (tmp_path / "torn.jpg").write_bytes(b"")
    refused(run, "none of the 1 files could be read", mode="query", input=tmp_path / "torn.jpg", output=tmp_path)
    inside = tmp_path / "located"  # else the next query would take the maps for photos
    refused(run, f"is inside input={tmp_path}", mode="query", input=tmp_path, output=inside)
