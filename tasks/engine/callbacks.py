"""Callbacks of training: averaged weights, images, metrics.json."""

import math
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch import Tensor
from torchvision.transforms.v2.functional import resize
from torchvision.utils import make_grid

from backbones.errors import UserError
from data.base import Split
from data.seeding import seed_all
from data.text import read_json_object, write_json
from tasks.engine.diagnosis import Point
from tasks.engine.figures import log_image
from tasks.engine.task import TaskModule
from tasks.engine.training_checkpoints import trainer_data


class EMA(WeightAveraging):
    """Exponential moving average of the weights, used in validation and saved in checkpoints.

    The decay rises with the step n as (1 + n) / (10 + n), so that short runs benefit as well.
    """

    def __init__(self, decay: float) -> None:
        def update(averaged: Any, current: Any, count: Tensor) -> None:
            step = float(count)
            weight = 1 - min(decay, (1 + step) / (10 + step))
            # torch calls this for each dtype; the integers are counters
            if averaged[0].is_floating_point():
                torch._foreach_lerp_(averaged, current, weight)
            else:
                torch._foreach_copy_(averaged, current)

        super().__init__(multi_avg_fn=update)

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Places the average where the model will be: Lightning moves the model only after this."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, module, stage)


class BadImageCounter(Callback):
    """Counts the images that could not be read, and stops the run if there are too many."""

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, _: int) -> None:
        self._count(trainer, batch, "train")

    def on_test_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, *_: Any) -> None:
        self._count(trainer, batch, "test")

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._count(trainer, batch, "val")

    def _count(self, trainer: Trainer, batch: Any, split: Any) -> None:
        if batch.bad:
            trainer_data(trainer).record_bad_images(batch.bad, split)


class PredictionImages(Callback):
    """Logs images at each validation: ground truth on the left, prediction on the right."""

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_index: int, *_: Any
    ) -> None:
        assert isinstance(module, TaskModule)
        if trainer.is_global_zero:
            for task, own in module.batches_to_plot(batch, batch_index):
                if count := task.config["logger"]["images"]:
                    log_image(task.trainer, "predictions", self.pages(task, own, count))

    @staticmethod
    def pages(module: TaskModule, batch: Any, most: int) -> Tensor:
        """A grid of pairs (3, H, W)."""
        count = min(most, len(batch.images))
        predictions = module.predict(batch.images[:count], batch.sizes[:count])
        pairs = []
        for i, (truth, prediction) in enumerate(zip(module.ground_truth(batch), predictions, strict=False)):
            image = resize(batch.images[i].cpu(), batch.sizes[i].tolist())
            pair = torch.cat([module.draw(image, truth), module.draw(image, prediction)], dim=2)
            pairs.append(resize(pair, [300, 600]))
        return make_grid(torch.stack(pairs), nrow=2, padding=6, pad_value=255)


class StepSeeds(Callback):
    """Makes the random numbers of a training step, such as dropout's, depend on seed, rank and step only."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_index: int) -> None:
        seed_all(self.seed, trainer.global_rank, trainer.global_step)
        torch.manual_seed(torch.initial_seed())  # the accelerator's generators as well


class MeanLoss:
    """The mean of a training's losses, kept on their device: reading each would stall a GPU."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count = 0

    def add(self, loss: Tensor) -> None:
        loss = loss.detach().float()
        self.total = loss.clone() if self.total is None else self.total.to(loss.device) + loss
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"total": None if self.total is None else float(self.total), "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        total = state.get("total")
        self.total, self.count = None if total is None else torch.tensor(float(total)), int(state.get("count", 0))

    def mean(self) -> float:
        """The mean since the last call; NaN if there was no loss."""
        mean = float("nan") if self.total is None else float(self.total) / self.count
        self.total, self.count = None, 0
        return mean


class RunReport(Callback):
    """Writes metrics.json in the run folder: state, best metrics, cost and settings. A resumed run continues from the
    values in that file and in the checkpoint.
    """

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.path = folder / "metrics.json"
        self.facts = facts
        self.started = time.monotonic()
        self.began = False
        before = read_json_object(self.path)
        metrics: Any = before.get("metrics")
        self.best = {k: v for k, v in metrics.items() if type(v) in (int, float)} if isinstance(metrics, dict) else {}
        self.history: list[Point] = []  # also from before it was resumed
        self.losses = MeanLoss()
        seconds: Any = before.get("seconds")
        # before it was resumed; JSON may hold any number
        known = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds < 1e12
        self.before = float(seconds) if known else 0.0

    @property
    def seconds(self) -> float:
        return round(self.before + time.monotonic() - self.started, 1)

    def state_dict(self) -> dict[str, Any]:
        return {
            "seconds": self.seconds,
            "history": [list(point) for point in self.history],
            "losses": self.losses.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history = [Point(*map(float, row)) for row in state.get("history", [])]
        self.before = max(self.before, float(state["seconds"]))  # a kill leaves the file as of the last validation
        self.losses.load_state_dict(state.get("losses", {}))

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.began = True

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        assert isinstance(module, TaskModule)
        self.losses.add(outputs["loss"])
        if batch_index % module.config["trainer"]["log_every"] == 0:
            self.check(trainer, module)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Checks the loss before the epoch's checkpoint is written."""
        assert isinstance(module, TaskModule)
        self.check(trainer, module)

    def check(self, trainer: Trainer, module: TaskModule) -> None:
        """Stops the run if a loss was not finite. Not called at each step, which would stall a GPU."""
        if self.losses.total is not None and not torch.isfinite(self.losses.total):
            raise UserError(
                f"{module.nonfinite_loss()} is not finite by step {trainer.global_step}; lower trainer.lr, or try "
                "trainer.precision=32"
            )

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        if self.began:  # else the file is right as it is
            with suppress(OSError, UserError):  # the run already ends with another error
                self.write(trainer, "interrupted", self.best)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Checks the loss before metrics meet outputs that are not finite."""
        assert isinstance(module, TaskModule)
        self.check(trainer, module)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.sanity_checking:
            assert isinstance(module, TaskModule)
            sign, value = 1 if module.mode == "max" else -1, module.last_metrics["primary"]
            if not math.isnan(value) and not sign * value <= sign * self.best.get("primary", -sign * math.inf):
                self.best = module.last_metrics
            # not a share of the training, which may be resumed for longer or in other batches
            batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
            done = trainer.current_epoch + batches / max(1, trainer.num_training_batches)
            self.history.append(Point(done, self.losses.mean(), module.last_metrics["primary"]))
            self.write(trainer, "running", self.best)
            if trainer.progress_bar_callback is None:  # no terminal: one line per validation
                loss = float(trainer.callback_metrics.get("train/loss", float("nan")))
                score = module.last_metrics["primary"]
                most = trainer.max_epochs or -1
                epoch = f"epoch {trainer.current_epoch + 1}{f'/{most}' if most > 0 else ''}"
                print(f"{epoch}  loss {loss:.3f}  {module.primary} {score:.3f}", flush=True)

    def write(self, trainer: Trainer, state: str, metrics: dict[str, float]) -> dict[str, Any]:
        """Writes the file, and returns what is in it."""
        data = trainer_data(trainer)
        content = {
            "state": state,
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "seconds": self.seconds,
            "metrics": metrics,
            "history": [point._asdict() for point in self.history],
            "images": {"unreadable": _counts(data.bad), "salvaged": _counts(data.salvaged)},
            **self.facts,
        }
        if trainer.is_global_zero:
            write_json(self.path, content)
        return content


def _counts(images: Mapping[Split, Collection[str]]) -> dict[str, int]:
    return {split: len(paths) for split, paths in images.items() if paths}
