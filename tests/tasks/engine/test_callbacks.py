"""Averaged weights and atomic checkpoints."""

import itertools
import json
import multiprocessing
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn
from torch.optim.swa_utils import AveragedModel

from backbones.errors import UserError
from tasks.engine.callbacks import EMA, RunReport
from tasks.engine.training_checkpoints import AtomicCheckpointIO
from tests.conftest import ROOT


def test_ema_is_that_of_a_plain_loop() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    averaged = AveragedModel(model, use_buffers=True, **EMA(0.9)._kwargs)
    expected: dict[str, torch.Tensor] = {}
    for step in range(30):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        model(torch.randn(4, 3))
        averaged.update_parameters(model)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if step == 0 or not value.is_floating_point():
                expected[name] = value.clone()
            else:
                expected[name] = decay * expected[name] + (1 - decay) * value
    for name, value in averaged.module.state_dict().items():
        torch.testing.assert_close(value, expected[name])


def test_the_average_is_where_the_model_will_be() -> None:
    """Else each step copies all weights from a GPU."""
    average, elsewhere = EMA(0.9), SingleDeviceStrategy(torch.device("meta"))
    trainer = Trainer(accelerator="cpu", strategy=elsewhere, logger=False, enable_checkpointing=False)
    module = LightningModule()
    module.layer = nn.Linear(3, 2)
    average.setup(trainer, module, "fit")
    assert average._average_model is not None
    assert {x.device.type for x in average._average_model.parameters()} == {"meta"}


@pytest.mark.parametrize("metrics", [5, None, [], {"primary": "best", "ap": 0.25}])
def test_a_report_that_another_wrote(metrics: Any, tmp_path: Path) -> None:
    """A run uses the entries that have the right type."""
    (tmp_path / "metrics.json").write_text(json.dumps({"metrics": metrics, "seconds": "long"}))
    report = RunReport(tmp_path, {})
    assert report.best == ({"ap": 0.25} if isinstance(metrics, dict) else {})
    assert report.before == 0


def test_a_kill_never_leaves_half_a_checkpoint(tmp_path: Path) -> None:
    """A process writes checkpoints without end; whenever it is killed, the file is whole."""

    def write_on(path: Path) -> None:
        writer = AtomicCheckpointIO()
        for n in itertools.count():
            # from numpy: torch's threads do not work in a forked process
            writer.save_checkpoint({"x": torch.from_numpy(np.full(2_000_000, n))}, path)

    for wait in (0.0, 0.013, 0.031):
        path = tmp_path / str(wait) / "last.ckpt"
        process = multiprocessing.get_context("fork").Process(target=write_on, args=(path,), daemon=True)
        process.start()
        while not path.exists():
            assert process.exitcode is None
            time.sleep(0.01)
        time.sleep(0.1 + wait)
        process.kill()
        process.join()
        values = torch.load(path, weights_only=True)["x"]
        assert (values == values[0]).all()


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"x": 1}, path)
    monkeypatch.setattr(secrets, "token_hex", lambda count: "0")
    (tmp_path / ".last.ckpt.0.part").mkdir()  # the temporary file's name
    with pytest.raises(UserError, match=r"cannot be written: File exists.*; the last good one is .*last.ckpt"):
        AtomicCheckpointIO().save_checkpoint({"x": 2}, path)
    assert torch.load(path, weights_only=True) == {"x": 1}


@pytest.mark.parametrize("seconds", ["1" + "0" * 400, "-1", "NaN", "true", '"1"'])
def test_a_report_with_an_odd_duration_starts_anew(seconds: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(f'{{"seconds": {seconds}}}')
    assert RunReport(tmp_path, {}).before == 0


def test_a_second_signal_ends_at_once() -> None:
    """The same signal twice in quick succession, as `timeout` sends it, counts once."""
    code = (
        "import os, signal, time; from tasks.engine import signals; signals.DUPLICATE_SECONDS = 3600\n"
        "signals.STOP.install(); signals.STOP.deferred = True\n"
        "for _ in range(2): os.kill(os.getpid(), signal.SIGTERM)\n"
        "signals.DUPLICATE_SECONDS = 0; print('goes on', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "goes on\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 128 + signal.SIGTERM
