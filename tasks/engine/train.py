"""Trains a task and reports on it. The commands import this only once their settings are valid."""

import copy
import fcntl
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import yaml
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor, RichProgressBar
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from backbones.console import Console
from backbones.errors import UserError, first_line
from backbones.files import atomic_write
from data.base import SuiteData
from data.overlap import overlaps
from tasks.engine.budget import Budget
from tasks.engine.callbacks import (
    EMA,
    BadImageCounter,
    PredictionImages,
    RunReport,
    StepSeeds,
)
from tasks.engine.checkpoint import load_checkpoint, load_matching_weights
from tasks.engine.config import non_default_settings
from tasks.engine.diagnosis import diagnose
from tasks.engine.hardware import lightning_precision, measure_latency
from tasks.engine.lightning import for_trainer, quiet_lightning
from tasks.engine.multitask_config import tasks_of
from tasks.engine.names import plain_name, run_name
from tasks.engine.optimizer import check_frozen
from tasks.engine.options import locate
from tasks.engine.processes import ProcessWatch, check_processes, is_rank_zero, started_by_launcher
from tasks.engine.report import ABSENT, show
from tasks.engine.signals import STOP, Stopped, resume_command
from tasks.engine.start import build_data, setup
from tasks.engine.task import TaskModule
from tasks.engine.tensorboard import RunLogger, quiet_writers
from tasks.engine.training_checkpoints import (
    AtomicCheckpointIO,
    BestCheckpoint,
    LastCheckpoint,
    last_checkpoint,
    refuse_damaged,
)
from tasks.engine.untrusted import PLAN, is_staged, resumed_config

log = logging.getLogger(__name__)
console = Console()
WATCHDOG_SECONDS = 10.0  # in which the watchdog notices a dead process
RUN_FOLDER = "MOBILENETS_RUN_FOLDER"  # how the first process of a run tells the others where it writes


def build_trainer(config: dict[str, Any], folder: Path | None, callbacks: Sequence[Callback]) -> Trainer:
    """A Trainer for the settings; without a folder it writes nothing."""
    quiet_lightning()
    settings = config["trainer"]
    bar: list[Callback] = [RichProgressBar()] if settings["progress_bar"] and sys.stdout.isatty() else []
    try:
        return _trainer(settings, folder, [*callbacks, *bar])
    except (MisconfigurationException, ImportError, ValueError) as error:  # a missing device or package
        asked = f"trainer.accelerator={settings['accelerator']} trainer.devices={settings['devices']}"
        raise UserError(f"{asked}: {first_line(error)}") from error


def _trainer(settings: dict[str, Any], folder: Path | None, callbacks: list[Callback]) -> Trainer:
    plugins: list[Any] = [AtomicCheckpointIO()]
    if started_by_launcher():
        plugins.append(TorchElasticEnvironment())
    elif "SLURM_JOB_ID" in os.environ:
        # as outside SLURM, a run starts the processes of further devices and handles signals itself
        plugins.append(LightningEnvironment())
    trainer = Trainer(
        max_epochs=settings["max_epochs"] or 1,
        accelerator=settings["accelerator"],
        devices=settings["devices"],
        num_nodes=settings["num_nodes"],
        precision=cast(Any, lightning_precision(settings["precision"], settings["accelerator"])),
        limit_train_batches=settings["limit_train_batches"],
        log_every_n_steps=settings["log_every"],
        logger=RunLogger(folder, name="", version="", default_hp_metric=False) if folder else False,
        callbacks=callbacks,
        plugins=plugins,
        enable_checkpointing=folder is not None,
        enable_progress_bar=any(isinstance(c, RichProgressBar) for c in callbacks),
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    # Lightning's own handler broadcasts to the other processes, whatever they are doing, and can wait forever
    cast(Any, trainer._signal_connector)._sigterm_notifier_fn = STOP
    return trainer


def new_folder(config: dict[str, Any]) -> Path:
    """Creates the run folder runs/<task>/<name>.

    Raises:
        UserError: it exists already, or cannot be written; or processes that torchrun started are not told which it is.
    """
    if not is_rank_zero() and not started_by_launcher():
        return Path(os.environ[RUN_FOLDER])
    if started_by_launcher() and not config["name"]:
        raise UserError("name=<name> is required with torchrun, as all processes write to the same run folder")
    name = config["name"] or run_name(time.strftime("%Y%m%d-%H%M%S"), config["backbone"])
    folder = Path(config["paths"]["runs"]) / plain_name(config["task"]["name"], "task.name") / plain_name(name, "name")
    if not is_rank_zero():
        return folder
    suffix = 1
    while True:
        try:
            folder.mkdir(parents=True)
            os.environ[RUN_FOLDER] = str(folder)
            return folder
        except FileExistsError as error:
            if config["name"] and not any((folder / begun).exists() for begun in ("config.yaml", PLAN)):
                os.environ[RUN_FOLDER] = str(folder)  # left by a process that was killed before training began
                return folder
            if config["name"]:
                raise UserError(f"{folder} exists; choose another name, or resume it with resume={folder}") from error
            folder = folder.with_name(f"{name}-{(suffix := suffix + 1)}")
        except OSError as error:
            raise UserError(f"the run folder {folder} cannot be created: {error.strerror}") from error


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Locks a run folder within the block, and removes what a killed process had not finished writing; if this one is
    killed, the system releases the lock.

    It is a record lock, which forked processes do not inherit: loaders of a killed run may live on for some seconds.

    Raises:
        UserError: another process has locked it, it cannot be written, or a folder in it is a symbolic link: a resumed
            run may come from someone else, and must not write elsewhere.
    """
    if not is_rank_zero():  # for the others the folder may not exist yet
        yield
        return
    if linked := next((path for path in folder.iterdir() if path.is_symlink() and path.is_dir()), None):
        raise UserError(f"{linked} is a link; a run writes only in its own folder: replace it with its target")
    try:
        file = open(folder / ".lock", "ab", opener=_unfollowed)  # noqa: SIM115  # closed below
    except OSError as error:
        raise UserError(f"the run folder {folder} cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise UserError(f"another process is training the run {folder}; stop it first, or wait") from error
        except OSError as error:  # a file system without locks
            log.warning("%s cannot be locked (%s): do not start a second run in it", folder, error.strerror)
        else:
            remove_unfinished(folder)
        yield


def _unfollowed(path: str, flags: int) -> int:
    """Opens a file without following a symbolic link or waiting for a pipe's reader."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def remove_unfinished(folder: Path) -> None:
    """Removes a killed run's unfinished files from its folder, which is locked; but no folders, such as exports, and
    nothing in others, such as a gallery: their commands do not take the lock.
    """
    for pattern in (".*.part", "checkpoints/.*.part"):
        for path in folder.glob(pattern):
            if not path.is_dir():
                path.unlink(missing_ok=True)


def prepare(
    config: dict[str, Any], ckpt: Path | None = None, generate_demo: bool = True
) -> tuple[SuiteData, TaskModule]:
    """The data and the module of a configuration, checked. `ckpt` is the checkpoint of a run to resume; with
    `generate_demo`, a demo's data is generated if it is absent. Nothing is written to the run folder.

    Raises:
        UserError: something in the settings, the data, the weights or the hardware must be corrected first.
    """
    check_processes(config["trainer"])
    seed_everything(config["seed"], workers=True, verbose=False)
    build_trainer(config, None, [])  # fails if there is no such accelerator
    data = build_data(config, generate_demo)
    data.seed = config["seed"]
    suite = load_checkpoint(ckpt)["suite"] if ckpt else {}
    data.known = suite.get("labels")
    if ckpt and data.labels != suite["labels"]:
        raise UserError("the data's classes are not those of the run: start a new run, from its weights with ckpt=")
    resolved, task = suite.get("backbone"), locate(config, "task")
    module: TaskModule = task(config, data.labels, load_weights=ckpt is None, resolved=resolved)
    data.check()
    module.check(data)
    if config["ckpt"] and ckpt is None:
        load_matching_weights(module, module.load_initial_weights(config["ckpt"]), config["ckpt"])
    return data, module


def train(
    config: dict[str, Any], folder: Path | None = None, generate_demo: bool = True, layout: str = ""
) -> dict[str, Any]:
    """Trains in `folder`, or in a new one, and returns the content of metrics.json. With `generate_demo`, a demo's data
    is generated if it is absent. `layout` describes the recognised data format.

    Raises:
        UserError: something in the settings, the data or the file system must be corrected first.
        Stopped: a signal arrived.
    """
    setup()
    quiet_writers()
    for task in tasks_of(config).values():
        task["data"]["root"] = str(Path(task["data"]["root"]).absolute())  # to resume from any folder
    data, module = prepare(config, generate_demo=generate_demo)
    check_frozen(config["trainer"], module.has_weights)  # here, as later stages are prepared before they have weights
    found = ", ".join(part for part in (layout, data.summary(), data.choices) if part)
    console.print(f"data: {found} (data={config['groups']['data']})", soft_wrap=True)
    if folder is None:
        folder = new_folder(config)
    else:
        folder.mkdir(parents=True, exist_ok=True)
    with run_lock(folder):
        return fit(config, folder, data, module)


def resume(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Continues the run in the folder `config["resume"]`, whose settings `overrides` change, and returns the content of
    metrics.json. A demo's data is generated only if `overrides` name data.root, as the folder is not trusted.

    Raises:
        UserError, Stopped: as `train`.
    """
    setup()
    quiet_writers()
    folder = Path(config["resume"])
    config = resumed_config(folder, config, overrides)
    generate_demo = any(override.partition("=")[0].endswith("data.root") for override in overrides)
    with run_lock(folder):
        ckpt = last_checkpoint(folder, config["task"]["name"])
        data, module = prepare(config, ckpt, generate_demo)
        return fit(config, folder, data, module, ckpt)


def fit(
    config: dict[str, Any], folder: Path, data: SuiteData, module: TaskModule, ckpt: Path | None = None
) -> dict[str, Any]:
    """Trains, from `ckpt` on, in a locked folder; returns the content of metrics.json."""
    facts = run_facts(config, folder, data, module)
    print_facts(facts, folder)
    for warning in overlaps(data):
        log.warning(warning)
    budget = module.budget = Budget(config["trainer"])
    callbacks = [budget, *build_callbacks(config, folder, facts)]
    trainer = build_trainer(config, folder, callbacks)
    budget.plan(trainer, data)
    if trainer.is_global_zero:
        with atomic_write(folder / "config.yaml", "w") as file:
            yaml.safe_dump(config, file, sort_keys=False)
    facts["precision"] = str(trainer.precision)
    facts["speed"] = measure_latency(copy.deepcopy(module.model), module.resolution, trainer.strategy.root_device)
    if isinstance(trainer.logger, RunLogger):
        trainer.logger.log_facts(facts)
    data.progress = lambda: budget.epoch_progress
    run_trainer(trainer, folder, data, module, ckpt)
    metrics = load_checkpoint(folder)["suite"]["metrics"]
    report = next(c for c in callbacks if isinstance(c, RunReport))
    own = f"{module.primary}/"
    by_class = {k.removeprefix(own): v for k, v in metrics.items() if k.startswith(own) and v != ABSENT}
    highest = None if config.get("multitask", {}).get("references") else 1.0  # relative to references it may exceed 1
    facts["limits"] = diagnose(report.history, module.mode, data.examples(), by_class, highest, data.num_images("val"))
    content = report.write(trainer, "finished", metrics)
    if trainer.is_global_zero:
        if isinstance(trainer.logger, RunLogger):
            trainer.logger.conclude(content)
        show(content, folder, data)
    return content


def run_trainer(trainer: Trainer, folder: Path, data: SuiteData, module: TaskModule, ckpt: Path | None) -> None:
    """Runs Lightning's `fit`, and turns its errors into those that a command reports.

    Raises:
        Stopped: a signal arrived.
        UserError: the checkpoint is damaged, another process of the run ended, or the folder is gone.
    """
    run = folder.parent if is_staged(str(folder.parent)) else folder
    STOP.launcher = trainer.strategy.launcher
    if ckpt:
        refuse_damaged(trainer, ckpt)
    watch = ProcessWatch(trainer.strategy.launcher, STOP.processes, STOP.end_processes, resume_command(run))
    watch.start()
    try:
        trainer.fit(for_trainer(module), datamodule=for_trainer(data), ckpt_path=ckpt, weights_only=True)
    except BaseException as error:
        lost = isinstance(error, RuntimeError) and trainer.world_size > 1 and watch.noticed.wait(WATCHDOG_SECONDS)
        if is_rank_zero():
            STOP.end_all_processes()
        if lost:
            raise UserError(watch.words) from error
        if STOP.number is not None:  # whatever the error: the signal also stops loaders and processes on other devices
            raise Stopped(STOP.number, run) from None
        if isinstance(error, OSError | UserError) and not folder.is_dir():
            raise UserError(f"the run folder {folder} no longer exists") from error
        raise
    finally:
        watch.over.set()
        STOP.deferred = False


def run_facts(config: dict[str, Any], folder: Path, data: SuiteData, module: TaskModule) -> dict[str, Any]:
    """The entries of metrics.json that do not change during a run."""
    facts = {
        "task": config["task"]["name"],
        "folder": str(folder.absolute()),
        "primary": module.primary,
        "mode": module.mode,
        "cost": module.model.cost(module.resolution).millions,
        "classes": len(module.labels),
        "resolution": module.resolution,
        "pretrained": module.resolved.get("pretrained"),  # whether `auto` found weights
        "changed": non_default_settings(config),
        "phone_format": module.model.phone_format,
        "settings": config,
    }
    facts |= module.facts()
    if data.note:
        facts["note"] = data.note
    return facts


def print_facts(facts: Mapping[str, Any], folder: Path) -> None:
    """Prints what is trained, and where."""
    cost, classes = facts["cost"], f"{facts['classes']} class{'es' if facts['classes'] > 1 else ''}"
    console.print(
        f"{facts['task']}: {cost['madds_m']:,.1f} M multiply-adds, {cost['params_m']:.3f} M parameters, "
        f"{facts['resolution']} px, {classes}; writing to {folder}"
    )


def build_callbacks(config: dict[str, Any], folder: Path, facts: dict[str, Any]) -> list[Callback]:
    """The callbacks of a run."""
    best = BestCheckpoint(folder, "best", "metric/primary", facts["mode"])
    own = facts.get("parts", {}) if config.get("multitask", {}).get("best_of_each") else {}
    each = [
        BestCheckpoint(folder, f"best-{name}", f"val/{name}/{part['primary']}", part["mode"])
        for name, part in own.items()
    ]
    report = RunReport(folder, facts)
    # after the others, whose state it saves
    last = LastCheckpoint(folder, config["trainer"]["save_minutes"], report.check)
    callbacks: list[Callback] = [BadImageCounter(), LearningRateMonitor("step"), report]
    callbacks += [best, *each, last, StepSeeds(config["seed"])]
    if config["trainer"]["ema_decay"]:
        callbacks.append(EMA(config["trainer"]["ema_decay"]))
    if any(task["logger"]["images"] for task in tasks_of(config).values()):
        callbacks.append(PredictionImages())
    return callbacks


def one_device(config: dict[str, Any]) -> dict[str, Any]:
    """Trainer settings for a single device of any machine, whatever the run was trained on."""
    accelerator = "cpu" if config["trainer"]["accelerator"] == "cpu" else "auto"
    return {"accelerator": accelerator, "devices": 1, "num_nodes": 1}


def evaluate(module: TaskModule, data: SuiteData) -> dict[str, float]:
    """Metrics of a restored task on the test split of some data."""
    settings = module.config["trainer"] | one_device(module.config)
    if module.closed_set:
        data.use_labels(module.labels)
    trainer = build_trainer(module.config | {"trainer": settings}, None, [BadImageCounter()])
    trainer.test(for_trainer(module), datamodule=for_trainer(data), verbose=False)
    if data.note:
        console.print(f"note: {data.note}", soft_wrap=True)
    return module.last_metrics
