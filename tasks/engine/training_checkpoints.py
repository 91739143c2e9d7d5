"""Checkpoints for resuming: last.ckpt, written at the end of epochs and within them, and previous.ckpt, the one before.

A resumed run equals an uninterrupted one bit for bit, on the same machine and in float32: order, augmentation and the
share of each process follow from the seed and the epoch, so that the loaders can skip what was used already.
"""

import logging
import os
import shlex
import time
import zipfile
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from backbones.errors import UserError, first_line
from backbones.files import atomic_write
from data.base import SuiteData
from tasks.engine.checkpoint import load_checkpoint, read_content
from tasks.engine.signals import STOP
from tasks.engine.task import TaskModule

log = logging.getLogger(__name__)

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
# what damaged content raises
DAMAGE = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final name and renames it, so that a file of that name is always complete. A
    replaced last.ckpt becomes previous.ckpt, if this process has read or written it and thus knows that it is intact.

    Raises:
        UserError: it cannot be written; the previous checkpoint is untouched.
    """

    def __init__(self) -> None:
        super().__init__()
        self.intact: set[Path] = set()  # absolute: Lightning makes some paths so, not all

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        target = Path(path).absolute()
        try:
            target.parent.mkdir(exist_ok=True)  # but not the run folder, should someone have deleted it
            with atomic_write(target) as file:
                torch.save(checkpoint, file)
                if target.name == LAST and target in self.intact:
                    keep(target, target.with_name(PREVIOUS))
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError of its writer
            kept = f"; the last good one is {target}" if target.exists() else ""
            raise UserError(f"checkpoint {target} cannot be written: {_reason(error)}{kept}") from error
        self.intact.add(target)

    def load_checkpoint(self, path: Any, *arguments: Any, **settings: Any) -> dict[str, Any]:
        content: dict[str, Any] = super().load_checkpoint(path, *arguments, **settings)
        self.intact.add(Path(path).absolute())
        return content

    def remove_checkpoint(self, path: Any) -> None:
        """Removes nothing: a run's checkpoints overwrite their predecessors, and an untrusted one that is resumed from
        could name any file as the previous best.
        """


def keep(path: Path, copy: Path) -> None:
    """Gives a file a second name by a hard link, so that it keeps its first; renames it if links are not supported."""
    spare = copy.with_name(f".{copy.name}.{os.getpid()}.part")
    try:
        spare.unlink(missing_ok=True)
        os.link(path, spare)
        spare.replace(copy)
    except OSError:
        if path.exists():
            path.replace(copy)


def _reason(error: BaseException) -> str:
    """The operating system's words for an error, which torch may have wrapped."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return first_line(error)


def is_intact(path: Path) -> bool:
    """Whether a checkpoint can be read and its checksums match, which torch does not verify."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type for entry in archive.infolist()) or archive.testzip():
                return False
        read_content(path)
    except (OSError, UserError, zipfile.BadZipFile, RuntimeError, ValueError, NotImplementedError):
        return False
    return True


def last_checkpoint(folder: Path, task: str) -> Path | None:
    """The checkpoint to resume from, verified to be intact and of this task; None if there is none yet.

    Raises:
        UserError: all existing ones are damaged, or it is of another task or version.
    """
    last, previous = (folder / "checkpoints" / name for name in (LAST, PREVIOUS))
    path = last
    if not last.exists() or not is_intact(last):
        if previous.exists() and is_intact(previous):
            path = previous
            why = "is damaged" if last.exists() else "is not there"
            log.warning("%s %s; resuming from the checkpoint before it, %s", last, why, previous.name)
        elif not last.exists():
            return None
        else:
            raise UserError(f"{last} is damaged, and there is no usable {PREVIOUS}; start a new run")
    load_checkpoint(path, task=task)
    return path


class BestCheckpoint(ModelCheckpoint):
    """Writes <name>.ckpt, the best by `metric`. Of a resumed run's state only the best value is used: Lightning would
    forget it in a run folder that was moved, and take paths from a file that is not trusted.
    """

    def __init__(self, folder: Path, name: str, metric: str, mode: str) -> None:
        place = folder / "checkpoints"
        super().__init__(place, filename=name, enable_version_counter=False, monitor=metric, mode=mode)
        self.path = str(Path(str(self.dirpath)) / f"{name}.ckpt")

    @property
    def state_key(self) -> str:
        """As of a ModelCheckpoint, under which earlier versions saved the state."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        best = state["best_model_score"]
        if best is None:  # stopped before the first validation
            return
        self.best_model_score = self.kth_value = torch.tensor(float(best))
        self.best_model_path = self.kth_best_model_path = self.path
        self.best_k_models = {self.path: self.best_model_score}


class LastCheckpoint(ModelCheckpoint):
    """Writes last.ckpt at the end of each epoch, every `minutes` within an epoch, and when a signal arrives,
    after which the run ends. Within an epoch only the first process writes, since it has everything that is needed,
    after `check` has found the losses finite.

    A signal in an epoch's last step takes effect after its validation and checkpoint.
    """

    def __init__(self, folder: Path, minutes: float, check: Callable[[Trainer, TaskModule], None]) -> None:
        super().__init__(
            folder / "checkpoints", filename=Path(LAST).stem, enable_version_counter=False, save_on_train_epoch_end=True
        )
        self.path = folder / "checkpoints" / LAST
        self.period = 60 * minutes  # seconds
        self.saved = time.monotonic()
        self.check = check
        self.across = 1  # images per step, over all processes

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "across": self.across}

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        super().setup(trainer, module, stage)
        self.across = trainer_data(trainer).batch_size * trainer.world_size

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Tells the data the position from which training continues, before a loader is created."""
        loops, data = checkpoint["loops"]["fit_loop"], trainer_data(trainer)
        if not same_structure(loops, trainer.fit_loop.state_dict()):
            raise ValueError("loops")
        epoch, batches = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]["current"]
        data.epoch, data.batches_done = epoch["processed"], 0
        budget = cast(TaskModule, module).budget
        assert budget
        if epoch["ready"] > epoch["processed"]:  # within an epoch
            before = checkpoint["callbacks"][self.state_key]["across"]
            if before != self.across:  # another batch size or number of processes: about as many images
                given = min(budget.epoch_steps - 1, batches["ready"] * before // self.across)
                batches |= {"ready": given, "started": given, "processed": given, "completed": given - 1}
            data.batches_done = batches["ready"]
        budget.continue_from(checkpoint, data.epoch, data.batches_done)
        trainer.fit_loop.max_epochs = budget.epochs

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_train_start(trainer, module)
        check_optimizers(trainer)
        if trainer.ckpt_path:
            use_settings(trainer, cast(TaskModule, module))
        self.saved = time.monotonic()
        STOP.deferred = trainer.is_global_zero
        if trainer.fit_loop.restarted_mid_epoch:  # Lightning does not call it then
            module.on_train_epoch_start()

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        STOP.stop()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch or not trainer.is_global_zero:
            return
        stop = STOP.number is not None
        if stop or time.monotonic() - self.saved > self.period:
            self.check(trainer, cast(TaskModule, module))
            content = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            trainer.strategy.save_checkpoint(content, self.path)
            self.saved = time.monotonic()
        if stop:
            trainer._logger_connector.update_train_step_metrics()  # of this step, which will not be repeated
            STOP.stop()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, module)
        self.saved = time.monotonic()

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        STOP.validating = True

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_validation_end(trainer, module)
        STOP.validating = False

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        STOP.deferred = False


def trainer_data(trainer: Trainer) -> SuiteData:
    data: SuiteData = cast(Any, trainer).datamodule  # which Lightning does not declare
    return data


def refuse_damaged(trainer: Trainer, path: Path) -> None:
    """Makes the trainer raise a UserError for a damaged training state: Lightning raises nearly any exception when it
    restores one.
    """
    connector: Any = trainer._checkpoint_connector

    def refusing(restore: Callable[..., None]) -> Callable[..., None]:
        @wraps(restore)
        def restored(*arguments: Any) -> None:
            try:
                check_schedulers(trainer)
                restore(*arguments)
            except UserError:
                raise
            except DAMAGE as error:
                raise damaged(path) from error

        return restored

    for name in ("restore_model", "restore_datamodule", "restore_callbacks", "restore_training_state"):
        setattr(connector, name, refusing(getattr(connector, name)))


def damaged(path: object) -> UserError:
    again = shlex.quote(f"ckpt={path}")
    return UserError(f"{path}: its training state is damaged; start a new run from its weights with {again}")


def same_structure(found: Any, own: Any) -> bool:
    """Whether restored plain values have the types and structure of a fresh run's."""
    if isinstance(own, dict):
        return isinstance(found, dict) and all(
            same_structure(found[key], own[key]) for key in own.keys() & found.keys()
        )
    if isinstance(own, list):
        return isinstance(found, list) and len(found) == len(own) and all(map(same_structure, found, own))
    if type(own) is int:
        return type(found) is int and 0 <= found < 1 << 60
    return own is None or type(found) is type(own)


def check_schedulers(trainer: Trainer) -> None:
    states = trainer._checkpoint_connector._loaded_checkpoint.get("lr_schedulers", [])
    for config, state in zip(trainer.lr_scheduler_configs, states, strict=False):
        if not same_structure(state, config.scheduler.state_dict()):
            raise ValueError("lr_schedulers")


def use_settings(trainer: Trainer, module: TaskModule) -> None:
    """Sets the learning rate, weight decay and momentum of restored optimizers to those of the settings, which may have
    changed since the checkpoint was saved.
    """
    for optimizer, config in zip(trainer.optimizers, trainer.lr_scheduler_configs, strict=True):
        for group, own in zip(optimizer.param_groups, module.hyperparameters, strict=True):
            if group["initial_lr"] != own["lr"]:
                group["lr"] *= own["lr"] / max(group["initial_lr"], 1e-12)
            group.update(own | {"lr": group["lr"], "initial_lr": own["lr"]})
        config.scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]


def check_optimizers(trainer: Trainer) -> None:
    """Raises UserError if an optimizer's restored state, which torch does not check, does not fit its parameters."""
    for optimizer in trainer.optimizers:
        for parameter, state in optimizer.state.items():
            values = state.values()
            fit = all(isinstance(v, Tensor | int | float | None) for v in values) and all(
                v.shape in ((), parameter.shape) for v in values if isinstance(v, Tensor)
            )
            if not fit:
                raise damaged(trainer.ckpt_path)
        if len({frozenset(state) for state in optimizer.state.values()}) > 1:
            raise damaged(trainer.ckpt_path)
