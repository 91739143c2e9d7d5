"""TensorBoard names that all runs have in common, so that tasks can be compared in its tabs."""

import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.tensorboard.summary import hparams

from backbones.errors import UserError
from tasks.engine.multitask_config import tasks_of

COMMON = ("final/primary", "metric/primary", "cost/madds_m", "cost/params_m", "speed/latency_ms", "train/loss")
LAYOUT = {
    "accuracy": {"primary metric": ["Multiline", ["^metric/primary$"]], "loss": ["Multiline", ["^train/loss$"]]},
    "cost": {
        "multiply-adds (M)": ["Multiline", ["^cost/madds_m$"]],
        "parameters (M)": ["Multiline", ["^cost/params_m$"]],
        "latency per image (ms)": ["Multiline", ["^speed/latency_ms$"]],
    },
}


def quiet_writers() -> None:
    """Keeps the threads that write event files from printing their error: training gets it at the next write, and
    reports it in one line.
    """
    default = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if type(args.thread).__name__ != "_AsyncWriterThread":
            default(args)

    threading.excepthook = hook


class RunLogger(TensorBoardLogger):
    """TensorBoard's logger without the hparams.yaml that Lightning adds: a run has its config.yaml."""

    @rank_zero_only
    def save(self) -> None:
        self.experiment.flush()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        try:
            super().log_metrics(metrics, step)
        except ValueError as error:  # which Lightning raises for any error
            if not isinstance(error.__cause__, OSError):
                raise
            raise UserError(f"{self.log_dir} cannot be written: {error.__cause__.strerror}") from error

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if status == "success":
            super().finalize(status)
        else:
            with suppress(OSError):  # perhaps the error that ended the run
                super().finalize(status)

    @rank_zero_only
    def log_facts(self, facts: Mapping[str, Any]) -> None:
        """Writes what is known of a run before it trains: settings, cost and speed of metrics.json."""
        for group in ("cost", "speed"):
            for name, value in facts[group].items():
                if isinstance(value, float):
                    self.experiment.add_scalar(f"{group}/{name}", value, 0)
        self.experiment.add_text("metric/name", facts["primary"], 0)
        self.experiment.add_custom_scalars(LAYOUT)
        # TensorBoard takes one run's columns for all runs, so all must have the same
        columns, start, _ = hparams(self.columns(facts), dict.fromkeys(COMMON, 0.0))
        writer = self.experiment._get_file_writer()
        writer.add_summary(columns)
        writer.add_summary(start)

    @rank_zero_only
    def conclude(self, content: Mapping[str, Any]) -> None:
        """Writes the final metrics of metrics.json, which the HParams tab shows beside the settings."""
        for name, value in content["metrics"].items():
            self.experiment.add_scalar(f"final/{name}", value, content["step"])
        _, _, end = hparams({}, {})
        self.experiment._get_file_writer().add_summary(end)
        self.save()

    @staticmethod
    def columns(facts: Mapping[str, Any]) -> dict[str, Any]:
        """The columns of the HParams tab, the same for every task; the last holds all other settings."""
        config = facts["settings"]
        tasks = tasks_of(config)
        backbone, trainer = config["backbone"], config["trainer"]
        shown = {
            "backbone.alpha": float(backbone.get("alpha", 1)),
            "backbone.rho": float(backbone["rho"]),
            "trainer.max_epochs": float(trainer["max_epochs"] or 0),
            "trainer.lr": float(trainer["lr"]),
            "data.batch_size": float(sum(task["data"]["batch_size"] for task in tasks.values())),
            "seed": float(config["seed"]),
        }
        others = [f"{k}={v}" for k, v in facts["changed"].items() if k not in shown]
        names = {
            "task": facts["task"],
            "metric": facts["primary"],
            "data": "+".join(task["groups"]["data"] for task in tasks.values()),
        }
        names["backbone"] = backbone.get("name") or config["groups"]["backbone"]
        return {**names, **shown, "other settings": " ".join(others)}
