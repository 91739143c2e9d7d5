"""The length of a training, in epochs, steps or minutes, and how much of it is done."""

import time
from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from backbones.console import Console
from backbones.errors import UserError
from data.base import SuiteData
from data.seeding import Progress
from tasks.engine.config import LENGTHS
from tasks.engine.schedule import epochs_of

EPOCHS_PER_VALIDATION = 2
ESTIMATE_AFTER_STEPS = 10  # of the time left
VALIDATION_FRACTION = 0.1  # of the minutes, for validations before the last one
FIRST_VALIDATION = 1 / 3  # of the minutes; its duration predicts that of the last one


class Budget(Callback):
    """Tracks how much of the training is done, ends it when its minutes are over, and decides when to validate.

    The minutes include training and validation, not the start of the program; a resumed run has the remaining ones.
    With several processes the clock of the first one counts for all: otherwise their learning rates would differ, and
    one would stop while the others wait for it.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.epoch_steps = 1  # in each process
        self.epochs = -1  # no limit
        self.shift = 0  # added to the step, if earlier epochs had more or fewer steps than those of now
        self.limit = 60 * settings["minutes"] if settings["minutes"] else None  # seconds
        self.spent = 0.0  # seconds before it was resumed
        self.started = time.monotonic()
        self.clock = 0.0  # seconds in all, as of the end of the last step
        self.validation = 0.0  # seconds of the longest one
        self.validations = 0
        self.first_step: tuple[int, float] | None = None
        self.epoch_done = 0.0  # progress at the start of the epoch
        self.estimate = 0.0  # of the epochs of a training by the clock, at the start of the epoch
        self.due = True  # whether a validation follows the epoch

    def state_dict(self) -> dict[str, Any]:
        state = {"spent": self.elapsed, "validation": self.validation, "validations": self.validations}
        plan = self.length | {"epochs": self.epochs, "epoch_steps": self.epoch_steps, "shift": self.shift}
        return state | {"epoch_done": self.epoch_done, "estimate": self.estimate, "due": self.due, "plan": plan}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.spent, self.validation = float(state["spent"]), float(state["validation"])
        self.validations = int(state["validations"])
        self.clock = self.spent
        self.epoch_done, self.estimate = float(state.get("epoch_done", 0)), float(state.get("estimate", 0))
        self.due = bool(state.get("due", True))

    @property
    def length(self) -> dict[str, Any]:
        """The settings that give the length."""
        return {name: self.settings[name] for _, _, name in (key.partition(".") for key in LENGTHS)}

    def plan(self, trainer: Trainer, data: SuiteData) -> None:
        """Plans the epochs for the images that `data` has now."""
        steps = data.train_batches(trainer.world_size)
        self.epoch_steps = min(steps, self.settings["limit_train_batches"] or steps)
        self.epochs = trainer.fit_loop.max_epochs = epochs_of(self.settings, self.epoch_steps)
        every = min(self.settings["log_every"], self.epoch_steps)  # Lightning warns if it exceeds an epoch's steps
        trainer.log_every_n_steps = every  # type: ignore[attr-defined]  # which its connector sets, undeclared

    def continue_from(self, checkpoint: Mapping[str, Any], epochs: int, batches: int) -> None:
        """Continues a training that has done `epochs` and `batches` of the next one, counted in today's batches. The
        schedule follows the place in the data, and the planned epochs stay unless their settings have changed: with
        another batch size, steps would be of another kind.

        Raises:
            UserError: the settings give a length that was exceeded already.
        """
        plan = checkpoint["callbacks"].get(self.state_key, {}).get("plan", {})  # earlier versions had none
        if plan.get("epoch_steps") == self.epoch_steps:
            self.shift = plan["shift"]
        else:
            self.shift = epochs * self.epoch_steps + batches - checkpoint["global_step"]
        if plan and self.length.items() <= plan.items():
            self.epochs = plan["epochs"]
        else:
            self.epochs = epochs_of(self.settings, self.epoch_steps, self.shift)
        known = type(self.epochs) is type(self.shift) is int and max(self.epochs, abs(self.shift)) < 1 << 53
        if not known or (self.epochs < 1 and self.limit is None):
            raise ValueError("plan")
        if 0 < self.epochs < epochs:
            given = next((name for name, value in self.length.items() if value), "max_epochs")
            raise UserError(
                f"the run has done {epochs} epochs, more than the {self.epochs} that it would have now; "
                f"give a larger trainer.{given}"
            )

    @property
    def elapsed(self) -> float:
        return self.spent + time.monotonic() - self.started

    def progress(self, step: int, steps: float) -> float:
        """The share of the training that is done, 0 to 1, after `step` of `steps`, or by the clock."""
        if self.limit is None:
            # the middle of the step: neither the first nor the last has the lowest learning rate
            return min(1.0, (step + self.shift + 0.5) / max(1.0, steps))
        return min(1.0, self.clock / max(1.0, self.limit - self.validation))

    @property
    def epoch_progress(self) -> Progress:
        """How far the training was at the start of the epoch."""
        return Progress(self.epoch_done, self.estimate if self.limit is not None else float(self.epochs))

    def read_clock(self, trainer: Trainer) -> None:
        if self.limit is None:  # nothing depends on the clock
            return
        now = self.elapsed, self.validation
        self.clock, self.validation = trainer.strategy.broadcast(now) if trainer.world_size > 1 else now

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.started = time.monotonic()  # after the data are opened and the latency is measured
        if trainer.fit_loop.restarted_mid_epoch:  # which began before the run was resumed
            self.plan_validation(trainer)
        elif self.limit is not None and self.due and self.progress(0, 0) >= 1:  # a finished run, which is validated
            trainer.should_stop = True

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.read_clock(trainer)
        self.note_progress(trainer)
        every, number = self.settings["validate_every"], trainer.current_epoch + 1
        if self.limit is not None and not every:
            self.due = self.progress(0, 0) >= self.next_validation
        else:
            self.due = number % (every or EPOCHS_PER_VALIDATION) == 0 or number == trainer.max_epochs
        self.plan_validation(trainer)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.note_progress(trainer)

    def note_progress(self, trainer: Trainer) -> None:
        """Notes the progress at the start of an epoch; loaders of a resumed run need it before the first step."""
        step = trainer.global_step
        self.epoch_done = self.progress(step, float(trainer.estimated_stepping_batches)) if step else 0.0
        self.estimate = (step + self.shift) / self.epoch_steps / self.epoch_done if self.epoch_done else 0.0

    def plan_validation(self, trainer: Trainer) -> None:
        trainer.check_val_every_n_epoch = 1 if self.due else 1 << 30

    @property
    def next_validation(self) -> float:
        """The progress from which on an epoch ends with a validation."""
        if self.limit is None or not self.validations:
            return FIRST_VALIDATION
        count = max(1, min(10, int(VALIDATION_FRACTION * self.limit / max(self.validation, 1e-3))))
        return FIRST_VALIDATION + (1 - FIRST_VALIDATION) * self.validations / count

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        self.read_clock(trainer)
        self.print_time_left(trainer)
        if self.limit is not None and self.progress(0, 0) >= 1:
            self.due = True  # validates at the end
            self.plan_validation(trainer)
            trainer.should_stop = True

    def print_time_left(self, trainer: Trainer) -> None:
        """Prints, after some steps, how long the rest will take."""
        step, now = trainer.global_step, time.monotonic()
        if self.first_step is None:
            self.first_step = step, now
        elif self.first_step[0] >= 0 and step - self.first_step[0] >= ESTIMATE_AFTER_STEPS and trainer.is_global_zero:
            seconds = (now - self.first_step[1]) / (step - self.first_step[0])
            left = (trainer.estimated_stepping_batches - step - self.shift) * seconds
            if self.limit is not None:
                left = self.limit - self.elapsed
            Console().print(f"{seconds:.2f} s per step; about {duration(left)} of training left")
            self.first_step = -1, now

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.validation_started = time.monotonic()

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.validations += 1
            self.validation = max(self.validation, time.monotonic() - self.validation_started)


def duration(seconds: float) -> str:
    """A duration in words: 40 s, 7 min, 3 h 20 min."""
    if seconds < 90:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
