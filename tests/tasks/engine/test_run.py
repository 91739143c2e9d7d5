"""The commands end to end: train, resume, predict, measure, and what is said of bad input."""

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from backbones.errors import UserError
from tasks.engine.checkpoint import load_checkpoint
from tasks.engine.config import load_config
from tasks.engine.start import saved_data
from tasks.engine.task import restore
from tasks.engine.train import evaluate
from tasks.run import execute, execute_in_subprocess
from tests.conftest import at_steps, command, png_header, stop_at
from tests.tasks.engine.test_refused import bad_input, settings


@pytest.fixture(scope="module")
def run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of two epochs."""
    runs = tmp_path_factory.mktemp("runs")
    result = command("run", *settings(scenes, runs, "name=tiny", "trainer.max_epochs=2"))
    assert result.returncode == 0, result.stderr
    assert "tensorboard --logdir" in result.stdout
    assert "ap50/apple" in result.stdout
    return runs / "detection" / "tiny"


def scalars(folder: Path, tag: str) -> dict[int, float]:
    events = EventAccumulator(str(folder)).Reload()
    return {e.step: e.value for e in events.Scalars(tag)}


def test_a_run_folder(run: Path) -> None:
    content = json.loads((run / "metrics.json").read_text())
    assert (content["state"], content["epoch"], content["step"]) == ("finished", 2, 6)
    assert content["primary"] == "ap"
    assert content["metrics"]["primary"] == content["metrics"]["ap"]
    assert content["cost"]["params_m"] > 0.2
    assert yaml.safe_load((run / "config.yaml").read_text())["backbone"]["alpha"] == 0.25
    assert Image.open(run / "predictions.png").width > 600
    assert not list(run.rglob("*.part"))


def test_tensorboard_has_curves_images_and_hparams_with_metrics(run: Path) -> None:
    events = EventAccumulator(str(run)).Reload()
    tags = events.Tags()
    wanted = {
        "train/loss",
        "train/box_loss",
        "val/ap",
        "val/ap50",
        "metric/primary",
        "lr-AdamW/pg1",
        "final/ap",
    }
    assert wanted <= set(tags["scalars"])
    assert set(tags["images"]) == {"predictions", "precision_recall"}
    assert len(scalars(run, "val/ap")) == 2
    plugins = events.summary_metadata
    assert any(m.plugin_data.plugin_name == "hparams" for m in plugins.values())


def test_a_checkpoint_holds_plain_values_and_what_predict_needs(run: Path) -> None:
    suite = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["suite"]
    assert suite["task"] == "detection"
    assert suite["labels"][0] == "apple"
    assert suite["resolution"] == 96
    chosen = {"padding": "same", "norm_eps": 1e-3, "pretrained": False}  # a demo starts from scratch
    assert suite["backbone"] == chosen | {"normalization": [[0.5] * 3] * 2}
    assert "_target_" not in str(suite)
    assert suite["config"]["groups"]["detector"] == "pan"
    assert suite["config"]["backbone"]["padding"] is None  # as it was composed
    assert suite["versions"]["torch"]
    assert 0 <= suite["metrics"]["ap"] <= 1


def test_predict(run: Path, scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("000000.jpg", "000001.jpg"):
        (tmp_path / "in" / name).write_bytes((scenes / "val" / name).read_bytes())
    (tmp_path / "in" / "torn.jpg").write_bytes(b"")
    (tmp_path / "in" / "large.png").write_bytes(png_header(20_000, 20_000))
    output = tmp_path / "out"
    result = command("predict", f"ckpt={run}", f"input={tmp_path / 'in'}", f"output={output}", "threshold=0.0")
    assert result.returncode == 0, result.stderr
    assert "torn.jpg" in result.stderr
    assert "ithasmorepixelsthanmax_pixels=100000000allows" in "".join(result.stderr.split())
    lines = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    assert [Path(line["file"]).name for line in lines] == ["000000.jpg", "000001.jpg"]
    width, height = Image.open(tmp_path / "in" / "000000.jpg").size
    for found in lines[0]["detections"]:
        x0, y0, x1, y1 = found["box"]
        assert 0 <= x0 <= x1 <= width
        assert 0 <= y0 <= y1 <= height
    assert Image.open(output / "000000.jpg.jpg").size == (width, height)
    bad_input(
        command("predict", f"ckpt={run}", f"input={tmp_path / 'in'}", f"output={tmp_path / 'in' / 'out'}"), "inside"
    )


def test_test_mode_repeats_the_runs_own_metric(run: Path) -> None:
    result = command("predict", f"ckpt={run}", "mode=test")
    assert result.returncode == 0, result.stderr
    (line,) = [x for x in result.stdout.splitlines() if "ap50 " in x]
    wanted = json.loads((run / "metrics.json").read_text())["metrics"]["ap50"]
    assert float(line.split("│")[2]) == pytest.approx(wanted, abs=0.02)  # with folded normalization
    result = command("predict", f"ckpt={run}", "mode=test", "threshold=0.5")
    bad_input(result, "threshold=0.5 has no effect on mode=test, which takes ckpt, root and teacher")


def test_resume_refuses_what_would_be_another_run(run: Path, tmp_path: Path) -> None:
    result = command("run", f"resume={run}", "backbone.alpha=0.5")
    assert (result.returncode, result.stdout) == (2, "")
    assert "backbone.alpha=0.5 cannot change when resuming" in result.stderr
    result = command("run", f"resume={tmp_path}")
    assert result.returncode == 2
    assert "is not a run folder" in result.stderr


def test_a_name_that_is_taken(run: Path, scenes: Path) -> None:
    result = command("run", *settings(scenes, run.parent.parent, "name=tiny"))
    bad_input(result, "exists; choose another name, or resume it with resume=")


def test_a_checkpoint_of_another_task(run: Path, scenes: Path, tmp_path: Path) -> None:
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    content["suite"] |= {"task": "faces", "config": load_config(["task=faces"])}
    torch.save(content, tmp_path / "faces.ckpt")
    result = command("run", *settings(scenes, tmp_path, f"ckpt={tmp_path / 'faces.ckpt'}"))
    bad_input(result, "is a checkpoint of task=faces, not of task=detection")


def test_checkpoints_that_cannot_be_used(run: Path, tmp_path: Path) -> None:
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    content["suite"]["version"] = 99
    torch.save(content, tmp_path / "new.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    (tmp_path / "torn.ckpt").write_bytes((run / "checkpoints" / "best.ckpt").read_bytes()[:5000])
    for name, words in (
        ("new.ckpt", "newer version"),
        ("torn.ckpt", "cannot be read"),
        ("other.ckpt", "not a checkpoint of this suite"),
        ("absent.ckpt", "there is no checkpoint"),
    ):
        with pytest.raises(UserError, match=words) as error:
            load_checkpoint(tmp_path / name)
        assert "\n" not in str(error.value)


def test_a_checkpoint_cannot_name_foreign_code(run: Path, scenes: Path, tmp_path: Path) -> None:
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    content["suite"]["config"]["detector"]["_target_"] = "os.system"
    torch.save(content, tmp_path / "evil.ckpt")
    bad_input(command("predict", f"ckpt={tmp_path / 'evil.ckpt'}", f"input={scenes}"), "older version of this suite")


def test_starting_from_a_checkpoint_says_what_is_fresh(run: Path, scenes: Path, tmp_path: Path) -> None:
    result = command(
        "run",
        *settings(
            scenes,
            tmp_path,
            f"ckpt={run}",
            "trainer.max_epochs=1",
            "logger.images=0",
            "detector=ssd",
        ),
    )
    assert result.returncode == 0, result.stderr
    told = " ".join(result.stderr.split())
    (line,) = re.findall(r"(\d+) tensors do not fit and keep their initial values: (.*)", told)
    assert int(line[0]) > 50
    assert "model.neck" in line[1]
    assert "model.backbone" not in line[1]


def test_a_sweep_makes_a_folder_for_each_run(scenes: Path, tmp_path: Path) -> None:
    arguments = settings(scenes, tmp_path, "trainer.max_epochs=1", "logger.images=0")
    result = command("run", "-m", *arguments, "detector=ssd,pan")
    assert result.returncode == 0, result.stderr
    runs = [yaml.safe_load(f.read_text()) for f in (tmp_path / "detection").glob("*/config.yaml")]
    assert {run["groups"]["detector"] for run in runs} == {"ssd", "pan"}


def test_a_resume_that_is_stopped_keeps_the_result(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "detection" / "longer"
    shutil.copytree(run, folder)
    before = json.loads((folder / "metrics.json").read_text())
    stop_at({before["step"] + 4}, signal.SIGTERM, monkeypatch)  # in its second epoch of three steps
    longer = ("trainer.max_epochs=5", "trainer.validate_every=500", "logger.images=0")
    result = command("run", f"resume={folder}", *longer)
    assert result.returncode == 128 + signal.SIGTERM, result.stderr
    after = json.loads((folder / "metrics.json").read_text())
    assert (after["state"], after["metrics"]) == ("interrupted", before["metrics"])
    assert after["epoch"] > before["epoch"]
    assert after["seconds"] > before["seconds"]


def test_a_run_folder_that_is_deleted_ends_the_run(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    at_steps({4}, lambda: runs.rename(tmp_path / "away"), monkeypatch)
    result = command("run", *settings(scenes, runs, "name=gone", "trainer.max_epochs=5", "logger.images=0"))
    bad_input(result, "no longer exists")
    assert (tmp_path / "away" / "detection" / "gone" / "checkpoints" / "last.ckpt").exists()
    assert not runs.exists()


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "..", "a/b", "my run"])
def test_a_name_that_is_no_plain_part_of_a_path(name: str) -> None:
    with pytest.raises(UserError, match="must consist of letters, digits"):
        execute([f"name={name}"])
    with pytest.raises(UserError, match=r"task\.name=.* cannot be set"):
        execute([f"task.name={name}"])


def test_a_stage_of_an_untrusted_run_removes_nothing(tmp_path: Path) -> None:
    run, victim = tmp_path / "run", tmp_path / "victim"
    for folder in (run / "1_x", victim):
        folder.mkdir(parents=True)
    (victim / "kept.txt").write_text("kept")
    (run / "config.yaml").write_text(yaml.safe_dump({"groups": {"task": "detection"}}))
    (run / "stages.yaml").write_text(yaml.safe_dump({"stages": {"x/../../../victim": []}, "overrides": []}))
    with pytest.raises(UserError, match="must consist of letters, digits"):
        execute([f"resume={run}"])
    assert (victim / "kept.txt").exists()


def test_a_run_killed_before_its_first_checkpoint_starts_again(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "detection" / "young"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text((run / "config.yaml").read_text())
    result = command("run", f"resume={folder}", "trainer.max_epochs=1", "logger.images=0")
    assert result.returncode == 0, result.stderr
    assert json.loads((folder / "metrics.json").read_text())["epoch"] == 1


def test_a_run_that_is_resumed_apart_is_found(run: Path, tmp_path: Path) -> None:
    """As one on several devices is, in a sweep; its folder has any name."""
    shutil.copytree(run, tmp_path / "any")
    assert execute_in_subprocess([f"resume={tmp_path / 'any'}"], again=False)["folder"] == str(tmp_path / "any")


def test_a_loss_that_is_not_finite_stops_the_run(run: Path, scenes: Path, tmp_path: Path) -> None:
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    next(v for v in content["state_dict"].values() if v.is_floating_point()).fill_(float("nan"))
    torch.save(content, tmp_path / "nan.ckpt")
    result = command("run", *settings(scenes, tmp_path, f"ckpt={tmp_path / 'nan.ckpt'}"))
    bad_input(result, "the loss is not finite by step")


def test_what_was_trained_on_a_gpu_is_tested_on_any_machine(run: Path, scenes: Path) -> None:
    checkpoint = load_checkpoint(run)
    checkpoint["suite"]["config"]["trainer"] |= {"accelerator": "gpu", "devices": 4, "num_nodes": 2}
    module = restore(checkpoint)
    found = evaluate(module, saved_data(module.config, str(scenes)))
    assert found["ap50"] == pytest.approx(checkpoint["suite"]["metrics"]["ap50"], abs=0.02)


def test_paths_below_the_home_folder(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell leaves the ~ of data.root=~/scenes to the command."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "scenes").symlink_to(scenes)
    short = ("name=home", "trainer.max_epochs=1", "trainer.limit_train_batches=1", "logger.images=0")
    result = command("run", *settings(Path("~/scenes"), Path("~/runs"), *short), folder=tmp_path)
    assert result.returncode == 0, result.stderr
    saved = yaml.safe_load((tmp_path / "runs/detection/home/config.yaml").read_text())
    assert saved["data"]["root"] == str(tmp_path / "scenes")
    assert not (tmp_path / "~").exists()
