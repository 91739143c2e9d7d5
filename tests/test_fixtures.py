"""Files of earlier versions stay readable: runs, checkpoints, exports and galleries in tests/fixtures/<version>/."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import predict, run
from tasks.bench import find_exports
from tasks.compare.__main__ import compare
from tasks.compare.pair import compare_pair
from tasks.engine.checkpoint import load_checkpoint
from tasks.engine.config import load_config
from tasks.engine.start import saved_data
from tasks.engine.task import restore
from tasks.engine.train import evaluate
from tasks.export import __main__ as export
from tasks.export import speed
from tasks.export.formats import FORMATS
from tasks.gallery.__main__ import run as gallery
from tests.conftest import ROOT

VERSIONS = sorted(path for path in (ROOT / "tests" / "fixtures").iterdir() if (path / "runs").is_dir())


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a version's files, for commands write beside what they read."""
    return shutil.copytree(request.param, tmp_path / "files")


def settings(name: str, **values: object) -> dict[str, Any]:
    return load_config([f"{key}={value}" for key, value in values.items()], name)


def metrics_of(run_folder: Path) -> dict[str, float]:
    metrics: dict[str, float] = json.loads((run_folder / "metrics.json").read_text())["metrics"]
    return metrics


def test_there_are_files_of_this_version() -> None:
    assert VERSIONS


@pytest.mark.parametrize("ckpt", ["", "checkpoints/best.ckpt"])
def test_predictions_are_what_they_were(files: Path, ckpt: str) -> None:
    output = files / "out"
    run_folder = files / "runs/classification/tiny"
    predict.predict(settings("predict", ckpt=run_folder / ckpt, input=files / "data/val", output=output))
    then, now = (
        [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
        for folder in (files, output)
    )
    assert [Path(row["file"]).relative_to(files) for row in now] == [Path(row["file"]) for row in then]
    for a, b in zip(then, now, strict=True):
        assert [c["label"] for c in b["classes"]] == [c["label"] for c in a["classes"]]
        assert [c["score"] for c in b["classes"]] == pytest.approx([c["score"] for c in a["classes"]], abs=0.02)


@pytest.mark.parametrize("task", ["classification", "geo"])
def test_metrics_are_what_they_were(files: Path, task: str) -> None:
    """The test split is the validation split, whose metrics the run keeps."""
    module = restore(load_checkpoint(files / "runs" / task / "tiny"))
    now = evaluate(module, saved_data(module.config, str(files / "data")))
    assert now == pytest.approx(metrics_of(files / "runs" / task / "tiny"), rel=0.01)


@pytest.mark.parametrize("task", ["classification", "geo"])
def test_a_run_is_resumed(files: Path, task: str) -> None:
    run_folder = files / "runs" / task / "tiny"
    run.execute([f"resume={run_folder}", f"data.root={files / 'data'}", "trainer.max_epochs=40"])
    content = json.loads((run_folder / "metrics.json").read_text())
    assert (content["state"], content["epoch"]) in {("finished", 20), ("finished", 40)}
    assert content["step"] > 20 * 4


def test_a_run_starts_from_a_checkpoint(files: Path) -> None:
    """Without training in between, the new run is as good as the old."""
    where = ["data=folders", f"data.root={files / 'data'}", f"paths.runs={files / 'runs'}", "name=next"]
    same = ["backbone.alpha=0.05", "task.resolution=32", "data.batch_size=4", "data.workers=0", "trainer.precision=32"]
    still = ["trainer.lr=1e-9", "trainer.bn_momentum=1e-9", "trainer.ema_decay=0", "trainer.max_epochs=1"]
    often = ["trainer.validate_every=1", "trainer.progress_bar=false", "logger.images=0"]
    old = files / "runs/classification/tiny"
    content = run.execute(["task=classification", f"ckpt={old}", *where, *same, *still, *often])
    assert content["metrics"]["top1"] == metrics_of(old)["top1"]


def test_a_checkpoint_is_exported(files: Path) -> None:
    """The new export answers like that version's export."""
    run_folder = files / "runs/classification/tiny"
    (old,) = (run_folder / "export").iterdir()
    new = export.execute([f"ckpt={run_folder}", f"root={files / 'data'}", "max_drop=100", f"output={files / 'new'}"])
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    runners = [FORMATS["onnx"].module().Runner(folder / "model.onnx", 1) for folder in (old, new)]
    (then,), (now,) = (runner(images) for runner in runners)
    np.testing.assert_allclose(now, then, atol=1e-5)


def test_an_export_and_a_checkpoint_are_benchmarked(files: Path) -> None:
    """In this process, as tests/tasks/export/test_export.py has a process for each."""
    run_folder = files / "runs/classification/tiny"
    rows = [speed.measure(c, 1, 0.01) for c in speed.contenders(str(run_folder), find_exports(run_folder), False)]
    assert {row.name for row in rows} == {"PyTorch eager", "classification-0.05-32-onnx"}
    assert all(row.median_ms > 0 for row in rows)


def test_runs_are_compared(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(settings("compare", runs=files / "runs"))
    assert "2 of 2 runs finished" in capsys.readouterr().out
    tiny = files / "runs/classification/tiny"
    compare_pair(settings("compare", a=tiny, b=tiny, root=files / "data", images=2, output=files / "pair"))
    assert any((files / "pair").glob("*.png"))


def test_a_gallery_answers(files: Path) -> None:
    image = files / "data/train/red/0.jpg"
    ckpt, output = files / "runs/geo/tiny", files / "located"
    gallery(settings("gallery", ckpt=ckpt, mode="query", input=image, output=output, k=1))
    (line,) = (output / "answers.jsonl").read_text().splitlines()
    (neighbour,) = json.loads(line)["neighbours"]
    assert neighbour["path"].endswith("train/red/0.jpg")
    assert neighbour["similarity"] > 0.95  # the gallery was embedded in bfloat16
