"""Checkpoints within an epoch: a run that was stopped or killed anywhere equals one that was not."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import TensorDataset

from backbones.errors import UserError
from data.seeding import Progress, ShuffledEpochs
from tasks.detection.task import DetectionTask
from tasks.embedding.task import EmbeddingTask
from tasks.engine.checkpoint import load_checkpoint
from tasks.engine.schedule import lr_factor
from tasks.engine.signals import STOP, Stopped
from tasks.engine.task import LOWEST_LR, TaskModule, restore
from tasks.engine.training_checkpoints import LAST, PREVIOUS, AtomicCheckpointIO, last_checkpoint
from tasks.run import execute
from tests.conftest import stop_at

PARTS = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers")
STEPS = 6  # per epoch


pytestmark = pytest.mark.usefixtures("stoppable")


def settings(scenes: Path, runs: Path, *more: str) -> list[str]:
    tiny = ["backbone.alpha=0.25", "task.resolution=64", "data=demo_scenes", f"data.root={scenes}", "data.train=24"]
    tiny += ["data.val=8", "data.batch_size=4", "data.workers=0", "trainer.precision=32", "trainer.log_every=1"]
    return [*tiny, "trainer.max_epochs=3", "logger.images=0", f"paths.runs={runs}", *more]


@pytest.fixture(scope="module")
def undisturbed(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    execute(settings(scenes, runs, "name=run"))
    return runs / "detection" / "run"


def losses(folder: Path) -> dict[int, float]:
    """The curve that TensorBoard shows."""
    return {event.step: event.value for event in EventAccumulator(str(folder)).Reload().Scalars("train/loss")}


def content(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return found


def equal(ours: Path, theirs: Path) -> None:
    """To the last bit: weights, averages, the optimizer's state, metrics and the means of the losses."""
    one, two = content(ours), content(theirs)
    for part in PARTS:
        torch.testing.assert_close(one[part], two[part], rtol=0, atol=0)
    one, two = (json.loads((folder / "metrics.json").read_text()) for folder in (ours, theirs))
    for part in ("metrics", "history", "epoch", "step", "images"):
        assert one[part] == two[part]


def test_stopped_within_epochs(
    undisturbed: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first step, in the middle, twice in an epoch, and in the last step, after which the epoch is finished;
    with augmentation in loader processes, of which the undisturbed run has none.
    """
    stops = {0: 1, 8: 9, 10: 11, 11: 12}
    stop_at(set(stops), signal.SIGTERM, monkeypatch)
    folder = tmp_path / "detection" / "run"
    arguments = settings(scenes, tmp_path, "name=run", "data.workers=1")
    seconds = 0.0
    for step in stops.values():
        with pytest.raises(Stopped) as stopped:
            execute(arguments)
        assert str(stopped.value) == f"stopped by SIGTERM; resume with: python -m tasks.run resume={folder}"
        assert content(folder)["global_step"] == step
        STOP.number = None
        arguments = [f"resume={folder}"]
        report = json.loads((folder / "metrics.json").read_text())
        assert report["state"] == "interrupted"
        assert report["seconds"] > seconds
        seconds = report["seconds"]
    execute(arguments)
    equal(folder, undisturbed)
    assert losses(folder) == losses(undisturbed)
    assert len(losses(folder)) == 3 * STEPS


def copied(run: Path, folder: Path) -> Path:
    shutil.copytree(run, folder / "run")
    return folder / "run"


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    found = torch.load(path, weights_only=True)
    edit(found)
    torch.save(found, path)


@pytest.mark.parametrize(
    "edit",
    [
        lambda c: c["loops"]["fit_loop"].update(epoch_progress={"current": {}}),
        lambda c: c["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"].update(ready="3"),
        lambda c: c["optimizer_states"][0]["state"][0].update(exp_avg=torch.zeros(7)),
        lambda c: c["optimizer_states"][0]["state"][0].pop("exp_avg_sq"),
        lambda c: c.update(optimizer_states=3),
        lambda c: c["lr_schedulers"][0].update(last_epoch="x"),
        lambda c: c["callbacks"]["Budget"].pop("spent"),
        lambda c: c["callbacks"]["Budget"]["plan"].update(shift="x"),
        lambda c: c["callbacks"]["RunReport"]["losses"].update(total=10**400),
        lambda c: next(v for v in c.values() if isinstance(v, dict) and "salvaged" in v).update(bad=3),
        lambda c: c.update(state_dict={}),
        lambda c: c["averaging_state"].clear(),
    ],
)
def test_a_damaged_training_state_is_refused(edit: Any, undisturbed: Path, tmp_path: Path) -> None:
    folder = copied(undisturbed, tmp_path)
    change(folder / "checkpoints" / LAST, edit)
    with pytest.raises(UserError, match=r"last\.ckpt: its training state is damaged; start a new run") as error:
        execute([f"resume={folder}", "trainer.max_epochs=4"])
    assert "\n" not in str(error.value)


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(
    undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One bit is flipped, which torch.load does not notice."""
    folder = copied(undisturbed, tmp_path)
    last, previous = (folder / "checkpoints" / name for name in (LAST, PREVIOUS))
    assert (content(folder)["global_step"], torch.load(previous, weights_only=True)["global_step"]) == (18, 12)
    damaged = bytearray(last.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    last.write_bytes(damaged)
    assert torch.load(last, weights_only=True)["global_step"] == 18
    assert last_checkpoint(folder, "detection") == previous
    assert f"{last} is damaged; resuming from the checkpoint before it, previous.ckpt" in caplog.text
    execute([f"resume={folder}"])
    equal(folder, undisturbed)
    assert torch.load(previous, weights_only=True)["global_step"] == 12  # not the damaged one
    last.unlink()
    assert last_checkpoint(folder, "detection") == previous
    previous.write_bytes(b"PK")
    assert last_checkpoint(folder, "detection") is None
    last.write_bytes(b"PK")
    with pytest.raises(UserError, match=r"last\.ckpt is damaged, and there is no usable previous\.ckpt"):
        last_checkpoint(folder, "detection")


def test_a_run_that_was_moved_keeps_its_best(undisturbed: Path, tmp_path: Path) -> None:
    """Here an unbeatable one; nothing else of the state is used."""
    folder = copied(undisturbed, tmp_path)
    best = (folder / "checkpoints" / "best.ckpt").read_bytes()

    def edit(found: dict[str, Any]) -> None:
        (state,) = (s for key, s in found["callbacks"].items() if "metric/primary" in key)
        state |= {"best_model_score": torch.tensor(2.0), "best_model_path": "/etc/passwd", "best_k_models": 3}

    change(folder / "checkpoints" / LAST, edit)
    assert execute([f"resume={folder}", "trainer.max_epochs=4"])["epoch"] == 4
    assert (folder / "checkpoints" / "best.ckpt").read_bytes() == best


def test_a_path_is_the_same_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning makes those of its callbacks absolute."""
    monkeypatch.chdir(tmp_path)
    io = AtomicCheckpointIO()
    for step, path in enumerate((Path(LAST), tmp_path / LAST, Path(LAST))):
        io.save_checkpoint({"step": step}, path)
        assert step == 0 or torch.load(tmp_path / PREVIOUS, weights_only=True)["step"] == step - 1


def test_what_is_replaced_is_kept_where_links_are_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", unknown)
    io = AtomicCheckpointIO()
    for step in range(3):
        io.save_checkpoint({"step": step}, tmp_path / LAST)
    assert [torch.load(tmp_path / name, weights_only=True)["step"] for name in (LAST, PREVIOUS)] == [2, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [LAST, PREVIOUS]


def test_a_run_saves_within_an_epoch_by_the_clock_and_goes_on_in_other_batches(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error in the 9th step the 8th is saved: 2 batches of 4 images in the second epoch, which are 4 of 2."""
    plain = TaskModule.training_step

    def step(self: TaskModule, batch: Any, index: int) -> Any:
        if self.global_step == 8:
            raise UserError("out of memory")
        return plain(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(TaskModule, "training_step", step)
        with pytest.raises(UserError, match="out of memory"):
            execute(settings(scenes, tmp_path, "name=run", "trainer.save_minutes=1e-6", "trainer.max_epochs=2"))
    folder = tmp_path / "detection" / "run"
    assert content(folder)["global_step"] == 8
    report = execute([f"resume={folder}", "data.batch_size=2"])
    assert report["step"] == 8 + (12 - 4)


@pytest.mark.parametrize(("batch_size", "steps"), [(8, 3), (2, 12)])
def test_in_other_batches_the_learning_rate_goes_on_from_the_same_place(
    batch_size: int, steps: int, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after 2 of 4 epochs, a length that follows from 24 steps of 4 images: half of the training is left."""
    stop_at({2 * STEPS - 1}, signal.SIGTERM, monkeypatch)
    with pytest.raises(Stopped):
        execute(settings(scenes, tmp_path, "name=run", "trainer.steps=24"))
    STOP.number = None
    folder = tmp_path / "detection" / "run"
    report = execute([f"resume={folder}", f"data.batch_size={batch_size}"])
    assert (report["epoch"], report["step"]) == (4, 2 * STEPS + 2 * steps)
    (scheduler,) = content(folder)["lr_schedulers"]
    peak = scheduler["base_lrs"][1]
    assert scheduler["_last_lr"][1] == pytest.approx(peak * LOWEST_LR)  # as after the last step
    rates = {e.step: e.value for e in EventAccumulator(str(folder)).Reload().Scalars("lr-AdamW/pg1")}
    for step in range(2 * STEPS + 1, report["step"]):
        place = (step - 2 * STEPS + 2 * steps + 0.5) / (4 * steps)
        assert rates[step] == pytest.approx(peak * max(LOWEST_LR, lr_factor(place, 0.05)), rel=1e-3)


def test_optimizer_settings_given_when_resuming_are_used(undisturbed: Path, tmp_path: Path) -> None:
    """The learning rate at the end of a longer run follows from the new peak; what changes the optimizer is refused."""
    folder = copied(undisturbed, tmp_path)
    more = ["trainer.lr=0.0005", "trainer.weight_decay=0.01", "trainer.max_epochs=4"]
    report = execute([f"resume={folder}", *more])
    assert [point["done"] for point in report["history"]] == [2, 3, 4]  # epochs, whatever the length was at the time
    groups = content(folder)["optimizer_states"][0]["param_groups"]
    assert {group["weight_decay"] for group in groups} == {0.0, 0.01}
    assert {group["initial_lr"] for group in groups} == {0.0005}
    rates = [e.value for e in EventAccumulator(str(folder)).Reload().Scalars("lr-AdamW/pg1") if e.step > 18]
    assert rates
    assert max(rates) < 0.0005
    fixed = ("trainer.optimizer=sgd", "trainer.freeze_backbone=true", "trainer.backbone_lr_scale=0.5")
    with pytest.raises(UserError, match=r"the run has done 4 epochs, more than the 2 .*larger trainer.max_epochs"):
        execute([f"resume={folder}", "trainer.max_epochs=2"])
    with pytest.raises(UserError, match=r"more than the 1 .*give a larger trainer.steps"):
        execute([f"resume={folder}", "trainer.steps=4"])
    for change in (*fixed, "trainer.weight_decay=0", "trainer.momentum=0", "trainer.ema_decay=0"):
        with pytest.raises(UserError, match=f"{change.split('=')[0]}=.* cannot change when resuming"):
            execute([f"resume={folder}", change])


@pytest.mark.parametrize("world_size", [1, 2])
def test_the_rest_of_an_epoch_is_what_was_not_given(world_size: int) -> None:
    dataset = TensorDataset(torch.arange(23))
    for rank in range(world_size):
        place = {"seed": 3, "epoch": 2, "rank": rank, "world_size": world_size}
        whole, rest = (ShuffledEpochs(dataset, None, Progress, skip=given, **place) for given in (0, 6))
        assert list(rest) == list(whole)[6:]
        assert list(rest) == list(whole)  # the next epoch


def break_losses(task: type[TaskModule], monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the losses of a task NaN from its second step on."""
    losses = task.compute_losses

    def broken(self: TaskModule, batch: Any) -> dict[str, torch.Tensor]:
        found = losses(self, batch)
        return found if self.trainer.global_step < 1 else {name: loss * float("nan") for name, loss in found.items()}

    monkeypatch.setattr(task, "compute_losses", broken)


def test_a_loss_that_is_not_finite_is_told_before_it_is_measured(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verification cannot compare embeddings that are not finite."""
    break_losses(EmbeddingTask, monkeypatch)
    place = (f"data.root={faces}", f"paths.runs={tmp_path}", "task.resolution=32", "data.batch_size=8")
    more = ("backbone.alpha=0.25", "trainer.log_every=100", "trainer.max_epochs=1", "data.workers=0")
    with pytest.raises(UserError, match="the loss is not finite by step"):
        execute(["task=embedding", *place, *more])


def test_a_loss_that_is_not_finite_is_found_before_a_checkpoint_is_written(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in steps that are not logged, where nothing reads the loss, and within an epoch."""
    break_losses(DetectionTask, monkeypatch)
    with pytest.raises(UserError, match="the loss is not finite by step"):
        execute(settings(scenes, tmp_path, "name=broken", "trainer.log_every=100"))
    assert not list(tmp_path.rglob("*.ckpt"))
    with pytest.raises(UserError, match="the loss is not finite by step 2"):
        execute(settings(scenes, tmp_path, "name=often", "trainer.log_every=100", "trainer.save_minutes=1e-6"))
    assert content(tmp_path / "detection" / "often")["global_step"] == 1


def test_a_task_that_was_compiled_is_restored_as_it_is(undisturbed: Path) -> None:
    checkpoint = load_checkpoint(undisturbed)
    checkpoint["suite"]["config"]["trainer"]["compile"] = True
    assert restore(checkpoint).model._compiled_call_impl is None
