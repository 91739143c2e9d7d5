"""The trainer as one task of a multi-task run sees it: with the task's own data, folder and TensorBoard tags."""

from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from data.base import SuiteData


class PartWriter:
    """A TensorBoard writer whose tags begin with the task's name."""

    def __init__(self, writer: Any, name: str) -> None:
        self._writer, self._name = writer, name

    def __getattr__(self, method: str) -> Any:
        call = getattr(self._writer, method)
        return (lambda tag, *a, **k: call(f"{self._name}/{tag}", *a, **k)) if method.startswith("add_") else call


class PartLogger(TensorBoardLogger):
    """The run's logger, as a task sees it: its folder is one below the run's."""

    def __init__(self, logger: TensorBoardLogger, name: str) -> None:
        self._logger, self._part = logger, name

    @property
    def experiment(self) -> Any:
        return PartWriter(self._logger.experiment, self._part)

    @property
    def log_dir(self) -> str:
        folder = Path(self._logger.log_dir) / self._part
        folder.mkdir(exist_ok=True)
        return str(folder)


class PartTrainer:
    """The run's trainer with a task's data and folder."""

    def __init__(self, trainer: Trainer, name: str, data: SuiteData | None) -> None:
        self._trainer, self.datamodule = trainer, data
        self.logger = PartLogger(trainer.logger, name) if isinstance(trainer.logger, TensorBoardLogger) else None

    @property
    def log_dir(self) -> str | None:
        return self.logger.log_dir if self.logger else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)
