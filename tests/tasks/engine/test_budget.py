"""How long a run trains: by epochs, steps, minutes, or as the data needs."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import LightningModule, Trainer

from tasks.engine.budget import Budget, duration
from tasks.engine.config import load_config
from tasks.engine.schedule import epochs_of, lr_factor
from tasks.run import execute
from tests.conftest import TINY


@pytest.mark.parametrize(
    ("given_settings", "images", "epochs"),
    [
        ((), 100, 250),  # 6 steps of 16 images an epoch: 1,500 steps
        ((), 118_287, 12),
        (("trainer.steps=100",), 100, 17),
        (("trainer.max_epochs=3",), 100, 3),
        (("trainer.minutes=8",), 100, -1),
        (("trainer.minutes=8", "trainer.steps=100"), 100, 17),  # the last setting counts
        (("trainer.steps=100", "trainer.minutes=8"), 100, -1),
        (("experiment=coco_ssd", "trainer.steps=100"), 100, 17),
    ],
)
def test_the_length_of_a_training(given_settings: tuple[str, ...], images: int, epochs: int) -> None:
    settings = load_config(["task=detection", "data=voc", *given_settings])["trainer"]
    assert epochs_of(settings, images // 16) == epochs


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 0.5))
def test_the_learning_rate_rises_then_falls(a: float, b: float, warmup: float) -> None:
    low, high = sorted((a, b))
    assert 0 <= lr_factor(a, warmup) <= 1
    if high <= warmup:
        assert lr_factor(low, warmup) <= lr_factor(high, warmup)
    elif low >= warmup:
        assert lr_factor(low, warmup) >= lr_factor(high, warmup) - 1e-12
    assert lr_factor(warmup, warmup) == pytest.approx(1)
    assert lr_factor(1, warmup) == pytest.approx(0, abs=1e-9)


def test_minutes_leave_time_for_the_last_validation_and_outlive_a_stop() -> None:
    settings = load_config(["trainer.minutes=10"])["trainer"]
    budget = Budget(settings)
    assert budget.progress(5, math.inf) == pytest.approx(0, abs=1e-3)
    budget.load_state_dict({"spent": 300.0, "validation": 120.0, "validations": 1})
    assert budget.progress(5, math.inf) == pytest.approx(300 / 480, rel=1e-3)
    assert budget.state_dict()["spent"] == pytest.approx(300, abs=1)
    assert 1 / 3 < budget.next_validation <= 1  # validations take at most about a tenth of the time


@pytest.mark.parametrize(
    ("every", "spent", "due"),
    [("3", 30.0, [False, False, True]), ("null", 30.0, [False] * 3), ("null", 300.0, [True] * 3)],
)
def test_with_minutes_epochs_are_validated_as_often_as_was_asked(every: str, spent: float, due: list[bool]) -> None:
    """By default the clock decides: not before a third of the minutes. It tells how many epochs there will be, too."""
    budget = Budget(load_config(["trainer.minutes=10", f"trainer.validate_every={every}"])["trainer"])
    budget.load_state_dict({"spent": spent, "validation": 0.0, "validations": 0})
    budget.epoch_steps = 10
    trainer, found = Trainer(max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False), []
    steps = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
    for epoch in range(3):
        trainer.fit_loop.epoch_progress.current.completed, steps.completed = epoch, 10 * epoch
        budget.on_train_epoch_start(trainer, LightningModule())
        found.append(budget.due)
        assert budget.epoch_progress.epochs == pytest.approx(epoch * 600 / spent, rel=0.05)
    assert found == due


def test_a_run_of_a_fraction_of_a_minute_ends_measured(scenes: Path, tmp_path: Path) -> None:
    more = (
        "task=detection",
        "data=demo_scenes",
        f"data.root={scenes}",
        f"paths.runs={tmp_path}",
        "name=short",
        "trainer.progress_bar=false",
    )
    content = execute([*more, *TINY, "trainer.minutes=0.05", "logger.images=0"])
    assert content["state"] == "finished"
    assert content["step"] > 0
    assert json.loads((tmp_path / "detection/short/metrics.json").read_text())["metrics"]["ap"] >= 0
    run = tmp_path / "detection" / "short"
    again = execute([f"resume={run}"])
    for key in ("state", "epoch", "step", "metrics", "history"):
        assert again[key] == content[key]
    last = run / "checkpoints" / "last.ckpt"
    saved = torch.load(last, weights_only=True)
    saved["callbacks"]["Budget"]["due"] = False  # as after an epoch without a validation, in which the time ran out
    torch.save(saved, last)
    content = execute([f"resume={run}"])
    assert content["step"] == again["step"] + 1
    assert len(content["history"]) == len(again["history"]) + 1
    longer = execute([f"resume={run}", f"trainer.max_epochs={content['epoch'] + 1}"])
    assert longer["epoch"] == content["epoch"] + 1  # the minutes, which are used up, no longer count


def test_durations() -> None:
    assert [duration(s) for s in (40, 420, 12_000)] == ["40 s", "7 min", "3 h 20 min"]
