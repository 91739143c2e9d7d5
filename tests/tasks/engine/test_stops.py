"""Signals and killed processes: a run says how to resume, does so, and leaves no process running."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from tests.conftest import command, spawn, start_run, wait_until
from tests.tasks.engine.test_refused import bad_input, settings


def test_a_run_belongs_to_one_process_and_stops_by_hand(scenes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "detection" / "ctrlc"
    process = start_run(*settings(scenes, tmp_path, "name=ctrlc", "trainer.max_epochs=500", "logger.images=0"))
    wait_until((folder / "checkpoints" / "last.ckpt").exists, process)
    bad_input(command("run", f"resume={folder}"), "another process is training the run")
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGINT
    assert output.splitlines()[-1] == f"stopped by SIGINT; resume with: python -m tasks.run resume={folder}"
    assert "Traceback" not in output
    assert json.loads((folder / "metrics.json").read_text())["state"] == "interrupted"


@pytest.mark.parametrize("devices", [1, 2])
def test_a_stopped_run_that_goes_on_equals_an_undisturbed_one(devices: int, scenes: Path, tmp_path: Path) -> None:
    """Bit for bit: weights, averaged weights and the optimizer's state, with augmentation in loader processes."""
    options = [*settings(scenes, tmp_path, "trainer.max_epochs=4", "logger.images=0"), "task.resolution=64"]
    options += ["data.workers=1", "data.batch_size=4", "trainer.precision=32", "trainer.validate_every=2"]
    options += ["trainer.accelerator=cpu", f"trainer.devices={devices}"]
    finish = command if devices == 1 else spawn
    folder = tmp_path / "detection" / "stopped"
    process = start_run(*options, "name=stopped")
    wait_until((folder / "checkpoints" / "last.ckpt").exists, process)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert output.splitlines()[-1] == f"stopped by SIGTERM; resume with: python -m tasks.run resume={folder}"
    assert "Traceback" not in output
    before = json.loads((folder / "metrics.json").read_text())
    assert before["state"] == "interrupted"
    assert before["epoch"] < 4
    for given in ([f"resume={folder}"], [*options, "name=undisturbed"]):
        result = finish("run", *given)
        assert result.returncode == 0, result.stderr
    after = json.loads((folder / "metrics.json").read_text())
    assert after["seconds"] > before["seconds"]
    ours, theirs = (
        torch.load(tmp_path / "detection" / name / "checkpoints" / "last.ckpt", weights_only=True)
        for name in ("stopped", "undisturbed")
    )
    for part in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)
    wanted = json.loads((tmp_path / "detection/undisturbed/metrics.json").read_text())
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


def test_slurm_queues_a_run_again_which_goes_on(scenes: Path, tmp_path: Path) -> None:
    """With a fake scontrol that records its arguments."""
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n')
    scontrol.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "11", "SLURM_ARRAY_TASK_ID": "3"}
    slurm |= {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NAME": "train"}  # as srun does
    environment = {**os.environ, **slurm, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    options = settings(scenes, tmp_path, "name=slurm", "trainer.max_epochs=500", "logger.images=0")
    folder = tmp_path / "detection" / "slurm"
    process = start_run(*options, environment=environment)
    wait_until((folder / "checkpoints" / "last.ckpt").exists, process)
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGUSR1, output
    assert output.splitlines()[-2:] == [
        f"stopped by SIGUSR1; resume with: python -m tasks.run resume={folder}",
        "requeued job 11_3",
    ]
    assert (tmp_path / "called").read_text() == "requeue 11_3\n"
    before = json.loads((folder / "metrics.json").read_text())["step"]
    process = start_run(*options, environment=environment | {"SLURM_RESTART_COUNT": "1"})
    wait_until(lambda: json.loads((folder / "metrics.json").read_text())["step"] > before, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
