"""Photos with places in shards."""

import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backbones.errors import UserError
from data.base import SPLITS
from data.crops import read_whole
from data.demo.earth import write_earth
from data.geo.positions import read_csv
from data.geo.sphere import great_circle_km
from data.shards.places import ShardGeoData
from data.tar import read_member
from tasks.engine.checkpoint import load_checkpoint
from tasks.engine.config import load_config
from tasks.engine.task import restore
from tasks.gallery.__main__ import run as gallery
from tasks.predict import test as measure_again
from tasks.run import execute
from tests.data.geo.test_places import PLAIN
from tests.data.test_shards import TINY, data, image, load_labels, write_shard


@pytest.fixture(scope="module")
def earth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's photos as shards, beside the tables that they were made of."""
    root = tmp_path_factory.mktemp("data") / "earth"
    write_earth(root, train=60, val=6, gallery=12, size=32, generated=True)
    for split, most in (("train", 20), ("val", 20), ("gallery", 20)):
        places = read_csv(root / f"{split}.csv", root, 0)
        rows = [
            {"jpg": path.read_bytes(), "json": json.dumps({"latitude": lat, "lon": lon}).encode()}
            for path, (lat, lon) in zip(places.paths, places.positions.tolist(), strict=True)
        ]
        for start in range(0, len(rows), most):
            write_shard(root / f"{split}-{start // most:03d}.tar", rows[start : start + most], start)
    return root


GEO: dict[str, Any] = {"train": "train-*.tar", "val": "val-*.tar", "test": None, "gallery": "gallery-*.tar", **PLAIN}


def places(root: Path, **settings: Any) -> ShardGeoData:
    more = {"max_photos": [20, 8], "min_photos": 2, "train_count": None, "shuffle": 0, "cache_gb": 0}
    return ShardGeoData(str(root), 32, **{**GEO, **more, "workers": 0, "batch_size": 4, "max_bad": 0.1, **settings})


def test_loaders_can_be_started_elsewhere(earth: Path, tmp_path: Path) -> None:
    """As in a run on several devices."""
    for split in SPLITS[:2]:
        write_shard(tmp_path / f"{split}-0.tar", [{"png": image(9), "cls": number} for number in (b"0", b"1")])
    for found in (data(tmp_path), places(earth)):
        for split in SPLITS[:2]:
            loader = found.loader(split)
            sent = pickle.dumps((loader.dataset, loader.collate_fn, loader.worker_init_fn))
            dataset, collate, _ = pickle.loads(sent)
            assert len(collate([next(iter(dataset))]).images) == 1


def test_positions_in_shards_are_those_of_the_table(earth: Path) -> None:
    found, table = places(earth), read_csv(earth / "train.csv", earth, 0)
    np.testing.assert_array_equal(found.places("train").positions, table.positions)
    for own, other in zip(found.places("train").paths[::7], table.paths[::7], strict=True):
        assert read_member(own) == other.read_bytes()
    for batch in found.val_dataloader():
        np.testing.assert_array_equal(batch.cells, found.hierarchy.assign(*batch.positions.double().numpy().T))
    count = sum(len(batch.images) for batch in found.val_dataloader())
    assert count == 6
    trained = {tuple(p) for batch in found.train_dataloader() for p in batch.positions.tolist()}
    inside = found.hierarchy.assign(*table.positions.T)[:, -1] >= 0
    assert trained <= {tuple(p) for p in table.positions[inside].astype(np.float32).tolist()}
    assert found.num_images("train") == inside.sum() < 60


def test_photos_in_shards_are_seen_as_by_a_gallery(earth: Path) -> None:
    found = places(earth)
    images = torch.cat([batch.images for batch in found.val_dataloader()])
    assert torch.equal(images, torch.stack([read_whole(path, 32) for path in found.places("val").paths]))


def test_positions_that_are_not_there(earth: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    facts = [b'{"latitude": 91, "longitude": 200}', b'{"lat": 100, "lng": 50}', b'{"latitude": 4}', b"{"]
    facts += [b'{"latitude": 4, "longitude": 5}'] * 40
    write_shard(tmp_path / "train-000.tar", [{"jpg": image(i), "json": f} for i, f in enumerate(facts)])
    write_shard(tmp_path / "val-000.tar", [{"jpg": image(i), "json": f} for i, f in enumerate(facts[:5])])
    found = places(tmp_path)
    assert len(found.places("train")) == 40
    assert "4 of 44 rows cannot be used: 1 out of range (first: " in caplog.text
    (batch,) = found.val_dataloader()
    assert [reason for _, reason in batch.bad] == [
        *("out of range", "with latitude and longitude swapped"),
        *["without a .json that has latitude and longitude"] * 2,
    ]
    with pytest.raises(UserError, match="4 of 5 rows cannot be used"):
        found.places("val")


def test_a_run_and_its_gallery_on_shards_with_given_cells(
    earth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second run takes the first one's partition files, and scans no shard beforehand."""
    where = ["task=geo", "data=place_shards", f"data.root={earth}", "data.workers=0", f"paths.runs={tmp_path}"]
    first = [
        "data.max_photos=[20,8]",
        "data.min_photos=2",
        "data.gallery=gallery-*.tar",
        "logger.images=0",
        "trainer.precision=32",
    ]
    assert execute([*TINY, *where, *first, "name=first"])["state"] == "finished"
    cells = [str(path) for path in sorted((tmp_path / "geo" / "first").glob("cells-*.csv"))]
    given = [f"data.partition=[{','.join(cells)}]", "data.train_count=40", "logger.images=0"]
    assert execute([*TINY, *where, *given, "name=second"])["step"] == 10
    runs = [tmp_path / "geo" / name for name in ("first", "second")]
    assert load_labels(runs[0]) == load_labels(runs[1])

    settings = [f"ckpt={runs[0]}", f"output={tmp_path / 'out'}", "k=3"]
    gallery(load_config([*settings, "mode=build"], "gallery"))
    photo = tmp_path / "photo.jpg"
    photo.write_bytes((earth / "gallery" / "000004.jpg").read_bytes())
    gallery(load_config([*settings, "mode=query", f"input={photo}"], "gallery"))
    answer = json.loads((tmp_path / "out" / "answers.jsonl").read_text())
    assert answer["neighbours"][0]["path"] == f"{earth}/gallery-000.tar/photos/000004.jpg"
    # also on other data, which needs no training split
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(earth / "gallery-000.tar", other / "val-000.tar")
    capsys.readouterr()
    measure_again(load_config([f"ckpt={runs[0]}", "mode=test", f"root={other}"], "predict"))
    shown = " ".join(capsys.readouterr().out.split())
    (found,) = re.findall(r"median_km │ ([\d.]+)", shown)
    module = restore(load_checkpoint(runs[0]))
    answers: list[Any] = []
    data = places(other)
    data.use_labels(module.labels)
    for batch in data.test_dataloader():
        with torch.inference_mode():
            said = module.predict(batch.images, batch.sizes)
        answers += [[a["latitude"], a["longitude"], *p] for a, p in zip(said, batch.positions.tolist(), strict=True)]
    rows = np.array(answers)
    assert float(found) == pytest.approx(np.median(great_circle_km(rows[:, :2], rows[:, 2:])), rel=1e-3)
    # a gallery is measured on other photos by their table
    gallery(load_config([*settings, "mode=evaluate", f"source={earth / 'gallery.csv'}"], "gallery"))
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["retrieval"]["median_km"] < 1
