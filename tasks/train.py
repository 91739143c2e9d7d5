"""Trains a task and reports on it. The commands import this only once their settings are valid."""

import copy
import logging
import os
import sys
import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, RichProgressBar
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.logging import RichHandler
from rich.table import Table

from backbones.base import scaled_resolution
from backbones.console import Console
from backbones.cost import measure_cost
from backbones.errors import UserError
from data.base import SuiteData
from tasks.base import TaskModule, build, locate
from tasks.board import Board
from tasks.callbacks import EMA, AtomicCheckpointIO, Pictures, RunReport, SkippedPictures
from tasks.checkpoint import load_checkpoint, start_from
from tasks.config import changed
from tasks.hardware import keep_freed_memory, latency_ms, precision
from tasks.saved import below_root, resumed_config

log = logging.getLogger(__name__)

console = Console()
RUN_FOLDER = "MOBILENETS_RUN_FOLDER"  # how the first process of a run tells the others where it writes


def setup() -> None:
    """Sends our news and everyone's warnings through rich, and sets the process up for speed."""
    keep_freed_memory()
    # Lightning 2.6 on torch 2.14, at every move of a batch; it works all the same
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler], force=True)
    for chatty in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
        logging.getLogger(chatty).propagate = True


def build_data(config: dict[str, Any], draw: bool = True) -> SuiteData:
    """The data set of a configuration, prepared; a demo's is drawn where it is absent, unless told not to `draw`."""
    resolution = scaled_resolution(config["task"]["resolution"], config["backbone"]["rho"])
    data: SuiteData = build(config, "data", resolution=resolution)
    if not draw:  # Lightning calls it as well
        data.prepare_data = partial(SuiteData.prepare_data, data)  # type: ignore[method-assign]
    data.prepare_data()
    return data


def saved_data(config: dict[str, Any], root: str | None, **changes: Any) -> SuiteData:
    """The data set that a checkpoint's configuration names, to measure on: read below `root`, or below the checkpoint's
    own data.root, which is said. Nothing is drawn, fetched, or read elsewhere on a checkpoint's word.

    Raises:
        UserError: it names files outside of data.root, and no root is given.
    """
    if root is None:
        log.info("reads data.root=%s, as the checkpoint says; root=<folder> reads another", config["data"]["root"])
    return build_data(config | {"data": below_root(config["data"], root) | changes}, draw=False)


def build_trainer(config: dict[str, Any], folder: Path | None, callbacks: Sequence[Callback]) -> Trainer:
    """A Trainer for the settings; without a folder it keeps nothing."""
    settings = config["trainer"]
    bar: list[Callback] = [RichProgressBar()] if settings["progress"] and sys.stdout.isatty() else []
    try:
        return _trainer(settings, folder, [*callbacks, *bar])
    except (MisconfigurationException, ImportError, ValueError) as error:  # a device that is not there, or its package
        raise UserError(f"trainer.accelerator={settings['accelerator']}: {str(error).splitlines()[0]}") from error


def _trainer(settings: dict[str, Any], folder: Path | None, callbacks: list[Callback]) -> Trainer:
    return Trainer(
        max_epochs=settings["max_epochs"],
        accelerator=settings["accelerator"],
        devices=settings["devices"],
        precision=precision(settings["precision"]),  # type: ignore[arg-type]
        limit_train_batches=settings.get("max_batches"),  # which older checkpoints do not have
        check_val_every_n_epoch=min(settings["validate_every"], settings["max_epochs"]),
        log_every_n_steps=settings["log_every"],
        logger=Board(folder, name="", version="", default_hp_metric=False) if folder else False,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        enable_checkpointing=folder is not None,
        enable_progress_bar=any(isinstance(c, RichProgressBar) for c in callbacks),
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def new_folder(config: dict[str, Any]) -> Path:
    """Makes the run folder runs/<task>/<name>.

    Raises:
        UserError: it exists already, or cannot be written.
    """
    alpha = config["backbone"].get("alpha")
    if os.environ.get("LOCAL_RANK", "0") != "0":  # a further process of a run on several devices
        return Path(os.environ[RUN_FOLDER])
    name = config["name"] or f"{time.strftime('%Y%m%d-%H%M%S')}{'' if alpha is None else f'-a{alpha:g}'}"
    folder = Path(config["paths"]["runs"]) / config["task"]["name"] / name
    suffix = 1
    while True:
        try:
            folder.mkdir(parents=True)
            os.environ[RUN_FOLDER] = str(folder)
            return folder
        except FileExistsError as error:
            if config["name"]:
                raise UserError(f"{folder} exists; choose another name, or go on with resume={folder}") from error
            folder = folder.with_name(f"{name}-{(suffix := suffix + 1)}")
        except OSError as error:
            raise UserError(f"the run folder {folder} cannot be made: {error.strerror}") from error


def train(config: dict[str, Any], overrides: Sequence[str] = (), draw: bool = True) -> dict[str, Any]:
    """Trains, and returns what metrics.json holds. A demo's data is drawn where it is absent, unless a run is resumed,
    whose folder may be a stranger's, and `overrides` do not say where.

    Raises:
        UserError: something in the settings, the data or the file system must be put right first.
    """
    setup()
    ckpt = folder = None
    if config["resume"]:
        folder = Path(config["resume"])
        config = resumed_config(folder, config, overrides)
        draw = any(override.startswith("data.root=") for override in overrides)
        ckpt = last_checkpoint(folder, config)
    differing = changed(config)
    config["data"]["root"] = str(Path(config["data"]["root"]).absolute())  # to resume from anywhere
    seed_everything(config["seed"], workers=True, verbose=False)
    data = build_data(config, draw)
    settled = load_checkpoint(ckpt)["suite"]["backbone"] if ckpt else None
    task = locate(config, "task")
    module: TaskModule = task(config, data.labels, load_weights=ckpt is None, settled=settled)
    if config["ckpt"] and ckpt is None:
        start_from(module, module.starting_weights(config["ckpt"]), config["ckpt"])
    if folder is None:
        folder = new_folder(config)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

    cost = measure_cost(copy.deepcopy(module.model), module.resolution)
    facts = {
        "task": config["task"]["name"],
        "folder": str(folder.absolute()),
        "primary": module.primary,
        "cost": {"madds_m": cost.madds / 1e6, "params_m": cost.params / 1e6},
        "classes": len(module.labels),
        "resolution": module.resolution,
        "changed": differing,
        "settings": config,
    }
    if data.note:
        facts["note"] = data.note
    console.print(
        f"{facts['task']}: {cost.madds / 1e6:,.1f} M multiply-adds, {cost.params / 1e6:.3f} M parameters, "
        f"{module.resolution} px, {len(module.labels)} classes; writing to {folder}"
    )
    report = RunReport(folder, facts)
    best, last = (
        ModelCheckpoint(folder / "checkpoints", filename=name, enable_version_counter=False, **settings)
        for name, settings in (
            ("best", {"monitor": "metric/primary", "mode": "max"}),
            ("last", {"save_on_train_epoch_end": True}),
        )
    )
    callbacks: list[Callback] = [SkippedPictures(), LearningRateMonitor("step"), report, best, last]
    if config["trainer"]["ema"]:
        callbacks.append(EMA(config["trainer"]["ema"]))
    if config["logger"]["pictures"]:
        callbacks.append(Pictures(config["logger"]["pictures"]))
    trainer = build_trainer(config, folder, callbacks)
    facts["speed"] = latency_ms(copy.deepcopy(module.model), module.resolution, trainer.strategy.root_device)
    if isinstance(trainer.logger, Board):
        trainer.logger.describe(facts)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt, weights_only=True)

    metrics = load_checkpoint(folder)["suite"]["metrics"]
    content = report.write(trainer, "finished", metrics)
    if trainer.is_global_zero:
        if isinstance(trainer.logger, Board):
            trainer.logger.conclude(content)
        show(content, folder, data)
    return content


def last_checkpoint(folder: Path, config: dict[str, Any]) -> Path | None:
    """The checkpoint to resume from, known to be whole and of this task; None where there is none yet."""
    path = folder / "checkpoints" / "last.ckpt"
    if not path.exists():
        return None
    load_checkpoint(path, task=config["task"]["name"])
    return path


def show(content: dict[str, Any], folder: Path, data: SuiteData) -> None:
    """Prints the metrics and where to look next."""
    table = Table("metric", "value", title=f"{content['task']}, best of {content['epoch']} epochs")
    for name, value in content["metrics"].items():
        if name != "primary":
            table.add_row(name, f"{value:.3f}", style="bold" if name == content["primary"] else None)
    console.print(table)
    if data.note:
        console.print(f"note: {data.note}", soft_wrap=True)
    for split, bad in data.bad.items():
        console.print(f"skipped {len(bad)} unreadable pictures of {split}, for example {next(iter(bad))}")
    console.print(f"run folder   {folder}", soft_wrap=True)
    if (folder / "pictures.png").exists():
        console.print(f"pictures     {folder / 'pictures.png'}  (truth left, prediction right)", soft_wrap=True)
    console.print(f"curves       tensorboard --logdir {folder.parent.parent}", soft_wrap=True)
    console.print(f"predict      python -m tasks.predict ckpt={folder} input=<file | folder | glob>", soft_wrap=True)


def evaluate(module: TaskModule, data: SuiteData) -> dict[str, float]:
    """Metrics of a restored task on the test split of some data."""
    settings = module.config["trainer"] | {"devices": 1}  # whatever it was trained on
    if module.closed_set:
        data.adopt(module.labels)
    trainer = build_trainer(module.config | {"trainer": settings}, None, [SkippedPictures()])
    trainer.test(module, datamodule=data, verbose=False)
    if data.note:
        console.print(f"note: {data.note}", soft_wrap=True)
    return module.last_metrics
