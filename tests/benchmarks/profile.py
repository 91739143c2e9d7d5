"""python -m tests.benchmarks.profile task=... <settings>: where the time of a training run goes.

The settings are those of tasks.run. The time of the run's process counts once, for the innermost part; loader processes
are not measured. On a GPU, which computes asynchronously, the parts show where the process waits:
`CUDA_LAUNCH_BLOCKING=1` shows the computations.
"""

import resource
import sys
import time
from collections import defaultdict
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.profilers import Profiler

from tasks.engine import train
from tasks.run import execute

START, END, LOOP, VALIDATION = "start", "end", "rest of the loop", "validation: "
PARTS = {  # by words in Lightning's action names
    "train_dataloader_next": "loader wait",
    "batch_to_device": "transfer",
    "transfer_batch": "transfer",
    ".training_step": "loss",  # what is neither preprocessing and forward nor logging
    ".backward": "backward",
    "optimizer_step": "optimizer",
    "zero_grad": "optimizer",
    "EMA.": "EMA",
    "val_next": VALIDATION + "loader wait",
    ".validation_step": VALIDATION + "network",
    "on_validation_epoch_end": VALIDATION + "metrics",
    "PredictionImages": VALIDATION + "pictures",
    "Checkpoint": "checkpoints",
    "[Callback]": "callbacks",
}


class Shares(Profiler):
    """Seconds of the parts of a run."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = defaultdict(float)
        self.stack, self.mark = [START], time.perf_counter()
        self.steps = 0

    def account(self) -> None:
        now = time.perf_counter()
        self.seconds[self.stack[-1]] += now - self.mark
        self.mark = now

    def start(self, action_name: str) -> None:
        part = next((part for name, part in PARTS.items() if name in action_name), self.stack[-1])
        self.begin(part)

    def begin(self, part: str) -> None:
        self.account()
        self.stack.append(part)

    def stop(self, action_name: str = "") -> None:
        self.account()
        self.stack.pop()

    def summary(self) -> str:
        return ""

    def time(self, owner: Any, method: str, part: str) -> None:
        """Attributes the time of an object's method to a part."""
        call = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            now = self.stack[-1]
            self.begin(now if now.startswith(VALIDATION) and not part.startswith(VALIDATION) else part)
            try:
                return call(*args, **kwargs)
            finally:
                self.stop()

        object.__setattr__(owner, method, timed)


class Parts(Callback):
    """Adds parts that Lightning has no names for."""

    def __init__(self, shares: Shares) -> None:
        self.shares = shares

    def on_fit_start(self, trainer: Trainer, module: Any) -> None:
        shares, model = self.shares, module.model
        for owner, method, part in (
            (model, "preprocess", "forward"),
            (model, "forward", "forward"),
            (module, "log", "logging"),
            (module, "log_dict", "logging"),
            (trainer.logger, "log_metrics", "logging"),
            (trainer.fit_loop.epoch_loop.val_loop, "run", VALIDATION + "rest"),
            (module, "figures", VALIDATION + "pictures"),
        ):
            shares.time(owner, method, part)
        shares.account()
        shares.stack[0] = LOOP

    def on_train_batch_end(self, *_: Any) -> None:
        self.shares.steps += 1

    def on_fit_end(self, *_: Any) -> None:
        self.shares.account()
        self.shares.stack[0] = END


def main() -> None:
    shares = Shares()

    def trainer(*, callbacks: list[Callback], **settings: Any) -> Trainer:
        return Trainer(callbacks=[*callbacks, Parts(shares)], profiler=shares, **settings)

    train.Trainer = trainer  # type: ignore[assignment, misc]
    execute(sys.argv[1:])
    shares.account()
    total, steps = sum(shares.seconds.values()), max(1, shares.steps)
    print(f"{total:.1f} s, {shares.steps} steps")
    for part, seconds in sorted(shares.seconds.items(), key=lambda item: -item[1]):
        print(f"{part:24} {seconds:7.1f} s {100 * seconds / total:5.1f} %  {1000 * seconds / steps:6.1f} ms a step")
    validation = sum(seconds for part, seconds in shares.seconds.items() if part.startswith(VALIDATION))
    print(f"validation in all {100 * validation / total:.1f} %; at most {peak():.0f} MB in the process")


def peak() -> float:
    """Peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    main()
