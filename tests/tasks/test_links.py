"""Links, pipes and devices in other people's files: nothing is written through them, and nothing blocks."""

import os
from pathlib import Path

import pytest

from backbones.errors import UserError
from backbones.mobilenet_v1 import MobileNetV1
from data.text import read_json_object
from tasks.bench import find_exports
from tasks.classification.model import Classifier
from tasks.distill.load import load_teacher
from tasks.engine.stages import finished_metrics
from tasks.engine.train import run_lock
from tasks.predict import open_lines
from tasks.run import execute


def test_holding_a_run_empties_no_file(tmp_path: Path) -> None:
    victim, run = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious")
    run.mkdir()
    for make in (lambda path: path.symlink_to(victim), os.mkfifo):
        make(run / ".lock")
        with pytest.raises(UserError, match="cannot be written"), run_lock(run):
            pass
        (run / ".lock").unlink()
    os.link(victim, run / ".lock")
    with run_lock(run):
        pass
    assert victim.read_text() == "precious"


def test_a_run_removes_the_files_that_a_killed_process_had_not_finished(tmp_path: Path) -> None:
    """But not what other commands may be writing."""
    kept = {"metrics.json", "a.part", "checkpoints/last.ckpt", ".a.0.part/model.onnx", "gallery/.index-1.faiss.0.part"}
    for name in (*kept, ".metrics.json.0.part", "checkpoints/.last.ckpt.0.part"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    with run_lock(tmp_path):
        found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == kept | {".lock"}


@pytest.mark.parametrize("name", ["checkpoints", "dogs", "1_first"])
def test_a_run_writes_into_no_linked_folder(name: str, tmp_path: Path) -> None:
    """Checkpoints, a part's images, a stage."""
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"{name} is a link"), run_lock(tmp_path / "run"):
        pass


def test_predictions_are_written_through_no_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "predictions.jsonl").symlink_to(tmp_path / "victim")
    with open_lines(tmp_path) as lines:
        lines.write("{}")
    assert (tmp_path / "predictions.jsonl").read_text() == "{}"
    assert (tmp_path / "victim").read_text() == "precious"


def test_bench_waits_for_no_pipe(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    os.mkfifo(tmp_path / "export" / "model.json")
    with pytest.raises(UserError, match="not a regular file"):
        find_exports(tmp_path)
    (tmp_path / "export" / "model.json").unlink()
    with (tmp_path / "export" / "model.json").open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(UserError, match="more than 64 MiB"):
        find_exports(tmp_path)


def test_resuming_waits_for_no_pipe(tmp_path: Path) -> None:
    for name in ("stages.yaml", "metrics.json"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match="not a regular file"):
        execute([f"resume={tmp_path}"])
    assert finished_metrics(tmp_path) == read_json_object(tmp_path / "metrics.json") == {}


@pytest.mark.parametrize("suffix", [".csv", ".npz", ".onnx"])
def test_a_teacher_that_is_a_pipe(suffix: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"teacher{suffix}")
    with pytest.raises(UserError, match=r"not a regular file|there is no such file"):
        load_teacher(str(tmp_path / f"teacher{suffix}"), ["a", "b"], Classifier(MobileNetV1(0.25), 2), 32)
