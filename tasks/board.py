"""What every run writes to TensorBoard under the same names, so that tasks compare in its tabs."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.tensorboard.summary import hparams

COMMON = ("final/primary", "metric/primary", "cost/madds_m", "cost/params_m", "speed/latency_ms", "train/loss")
LAYOUT = {
    "How well": {"primary metric": ["Multiline", ["^metric/primary$"]], "loss": ["Multiline", ["^train/loss$"]]},
    "At which cost": {
        "multiply-adds (M)": ["Multiline", ["^cost/madds_m$"]],
        "parameters (M)": ["Multiline", ["^cost/params_m$"]],
        "latency of a picture (ms)": ["Multiline", ["^speed/latency_ms$"]],
    },
}


class Board(TensorBoardLogger):
    """TensorBoard's logger without the hparams.yaml that Lightning adds: a run has its config.yaml."""

    @rank_zero_only
    def save(self) -> None:
        self.experiment.flush()

    @rank_zero_only
    def describe(self, facts: Mapping[str, Any]) -> None:
        """Writes what is known of a run before it trains: settings, cost and speed of metrics.json."""
        for group in ("cost", "speed"):
            for name, value in facts[group].items():
                if isinstance(value, float):
                    self.experiment.add_scalar(f"{group}/{name}", value, 0)
        self.experiment.add_text("metric/name", facts["primary"], 0)
        self.experiment.add_custom_scalars(LAYOUT)
        # TensorBoard takes the columns of any one run for all, so all runs must name the same
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
        """The columns of the HParams tab, the same for every task; the last holds what they do not."""
        config = facts["settings"]
        backbone, trainer = config["backbone"], config["trainer"]
        shown = {
            "backbone.alpha": float(backbone.get("alpha", 1)),
            "backbone.rho": float(backbone["rho"]),
            "trainer.max_epochs": float(trainer["max_epochs"]),
            "trainer.lr": float(trainer["lr"]),
            "data.batch_size": float(config["data"]["batch_size"]),
            "seed": float(config["seed"]),
        }
        others = [f"{k}={v}" for k, v in facts["changed"].items() if k not in shown]
        names = {"task": facts["task"], "metric": facts["primary"], "data": config["groups"]["data"]}
        names["backbone"] = backbone.get("name") or config["groups"]["backbone"]
        return {**names, **shown, "other settings": " ".join(others)}
