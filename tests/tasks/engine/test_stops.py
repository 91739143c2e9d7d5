"""Signals and killed processes: a run says how to resume, does so, and leaves no process running; and what two
processes measure."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from tests.conftest import at_steps, command, spawn, start_run, stop_at, wait_until
from tests.tasks.engine.test_refused import bad_input, settings


def test_a_run_belongs_to_one_process_and_stops_by_hand(scenes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "detection" / "ctrlc"
    more = ("name=ctrlc", "trainer.max_epochs=500", "trainer.save_minutes=1e-6", "logger.images=0")
    process = start_run(*settings(scenes, tmp_path, *more))
    wait_until((folder / "checkpoints" / "last.ckpt").exists, process)
    bad_input(command("run", f"resume={folder}"), "another process is training the run")
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGINT
    assert output.splitlines()[-1] == f"stopped by SIGINT; resume with: python -m tasks.run resume={folder}"
    assert "Traceback" not in output
    assert json.loads((folder / "metrics.json").read_text())["state"] == "interrupted"


@pytest.fixture(scope="module")
def coco(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings of a run of four epochs on two devices, which takes seconds. With 7 validation images, the sampler
    repeats one.
    """
    root = tmp_path_factory.mktemp("coco")
    content = json.loads((scenes / "val.json").read_text())
    content["images"] = content["images"][:7]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    (root / "val.json").write_text(json.dumps(content))
    for name in ("train.json", "train", "val"):
        (root / name).symlink_to(scenes / name)
    files = [f"data.{s}_{k}={s}{e}" for s in ("train", "val") for k, e in (("json", ".json"), ("images", ""))]
    small = ["backbone.alpha=0.25", "task.resolution=64", "trainer.log_every=1"]
    data = ["data=coco", f"data.root={root}", *files, "data.workers=1", "data.batch_size=4"]
    length = ["trainer.max_epochs=4", "trainer.validate_every=2", "trainer.precision=32", "logger.images=0"]
    return [*small, *data, *length, "trainer.accelerator=cpu", "trainer.devices=2", "task.score_threshold=0"]


@pytest.fixture(scope="module")
def undisturbed(coco: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    runs = tmp_path_factory.mktemp("runs")
    result = spawn("run", *coco, f"paths.runs={runs}", "name=undisturbed")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(" M multiply-adds") == 1  # the second process prints nothing
    assert result.stdout.count("epoch 4/4") == 1
    return runs / "detection" / "undisturbed"


def test_two_processes_measure_as_one(undisturbed: Path) -> None:
    """The validation image that the sampler repeats does not count twice."""
    wanted = json.loads((undisturbed / "metrics.json").read_text())["metrics"]
    result = command("predict", f"ckpt={undisturbed}", "mode=test")
    assert result.returncode == 0, result.stderr
    (line,) = [x for x in result.stdout.splitlines() if "ap50 " in x]
    assert float(line.split("│")[2]) == pytest.approx(wanted["ap50"], abs=0.02)


def test_a_stopped_run_that_goes_on_equals_an_undisturbed_one(
    undisturbed: Path, coco: list[str], tmp_path: Path
) -> None:
    """Bit for bit: weights, averaged weights and the optimizer's state, with augmentation in loader processes."""
    folder = tmp_path / "detection" / "stopped"
    process = start_run(*coco, f"paths.runs={tmp_path}", "name=stopped", "trainer.save_minutes=1e-6")
    wait_until((folder / "checkpoints" / "last.ckpt").exists, process)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert output.splitlines()[-1] == f"stopped by SIGTERM; resume with: python -m tasks.run resume={folder}"
    assert "Traceback" not in output
    before = json.loads((folder / "metrics.json").read_text())
    assert before["state"] == "interrupted"
    assert before["epoch"] < 4
    result = spawn("run", f"resume={folder}", "trainer.save_minutes=10")
    assert result.returncode == 0, result.stderr
    after, wanted = (json.loads((run / "metrics.json").read_text()) for run in (folder, undisturbed))
    assert after["seconds"] > before["seconds"]
    ours, theirs = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (folder, undisturbed))
    for part in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)
    assert (after["metrics"], after["history"]) == (wanted["metrics"], wanted["history"])


@pytest.mark.parametrize(("lost", "words"), [(1, "process 2 of 2 ended by SIGKILL"), (0, "the first process of")])
def test_where_one_of_two_processes_dies_the_other_ends(lost: int, words: str, scenes: Path, tmp_path: Path) -> None:
    options = settings(scenes, tmp_path, "name=two", "trainer.max_epochs=500", "logger.images=0")
    options += ["trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=4", "trainer.save_minutes=1e-6"]
    process = start_run(*options)
    folder = tmp_path / "detection" / "two"
    wait_until((folder / "checkpoints" / "last.ckpt").exists, process)
    os.kill(process.pid if lost == 0 else rank_of(process.pid), signal.SIGKILL)
    output, _ = process.communicate(timeout=300)  # until both have ended, as both write to this pipe
    assert process.returncode == (2 if lost else -signal.SIGKILL)
    line = next(line for line in output.splitlines() if words in line)
    assert line.startswith("error: ")
    assert line.endswith(f"so this run ends too; resume with: python -m tasks.run resume={folder}")
    assert "Traceback" not in output
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] > 0


def rank_of(pid: int) -> int:
    """The process id of the second device's process."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    (found,) = [c for c in children if b"LOCAL_RANK=1" in Path(f"/proc/{c}/environ").read_bytes()]
    return int(found)


def test_slurm_queues_a_run_again_which_goes_on(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fake scontrol that records its arguments."""
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n')
    scontrol.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "11", "SLURM_ARRAY_TASK_ID": "3"}
    slurm |= {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NAME": "train"}  # as srun does
    slurm |= {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    options = settings(scenes, tmp_path, "name=slurm", "trainer.max_epochs=2", "logger.images=0")
    folder = tmp_path / "detection" / "slurm"
    stop_at({1}, signal.SIGUSR1, monkeypatch)
    result = command("run", *options)
    assert result.returncode == 128 + signal.SIGUSR1, result.stderr
    assert result.stderr.splitlines()[-2:] == [
        f"stopped by SIGUSR1; resume with: python -m tasks.run resume={folder}",
        "requeued job 11_3",
    ]
    assert (tmp_path / "called").read_text() == "requeue 11_3\n"
    assert json.loads((folder / "metrics.json").read_text())["step"] == 2
    at_steps({0, 1}, lambda: pytest.fail("it began again"), monkeypatch)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    result = command("run", *options)
    assert result.returncode == 0, result.stderr
    assert json.loads((folder / "metrics.json").read_text())["step"] == 6
