"""Exports all tasks of a multi-task run (part=all): as one file that runs the shared backbone once per image, as one
safetensors file that stores shared weights once, or as one file per task.
"""

import logging
import re
import shlex
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning import seed_everything
from rich.table import Table

from backbones.console import Console
from backbones.errors import UserError
from data.classification import ClassificationData
from data.files import atomic_folder
from tasks.engine.checkpoint import find_checkpoint, load_checkpoint, part_checkpoint
from tasks.engine.start import setup
from tasks.engine.task import TaskModule, restore
from tasks.export.card import CARD, joint_card
from tasks.export.exporter import (
    COMPARED,
    THREADS,
    calibration,
    check_measured,
    drop_problem,
    evaluation_data,
    export,
    export_folder,
    images,
    latency,
    metric_entry,
    new_spec,
)
from tasks.export.formats import FORMATS
from tasks.export.graph import Graph, Job
from tasks.export.package import Spec, example, sha256, without_paths, write_spec
from tasks.export.to_torch import write_checkpoint
from tasks.export.verify import Runner, RuntimeModel, differences, measure
from tasks.multitask.one_pass import OnePass
from tasks.multitask.results import together

log = logging.getLogger(__name__)

# the networks' parameters as trained: `restore` folds the normalization into the convolutions of each task
PARAMETER = re.compile(r"^parts\.\w+\.model\.(?!.*\.(running_mean|running_var|num_batches_tracked)$)")


def export_all(config: dict[str, Any]) -> Path:
    """Writes the files, and measures them with each task's own metrics. Returns their folder.

    Raises:
        UserError: the run has one task, `root` is given, the tasks of one file have different input sizes, or a task's
            metric drops by more than `max_drop`.
    """
    setup()
    path = find_checkpoint(config["ckpt"])
    checkpoint = load_checkpoint(path)
    settings = checkpoint["suite"].get("config", {})
    if not settings.get("parts"):
        raise UserError(f"part=all is for multi-task runs; {path} has one task")
    if config["root"] is not None:
        raise UserError(
            f"root={config['root']} applies to one task; export the tasks one by one (part=<task>), or all with their "
            "data sets where they were"
        )
    learners = [name for name, part in settings["parts"].items() if "distill" in part]
    asked = learners or settings["parts"]  # `restore` raises an error if no task uses a teacher
    teachers = {name: config["teacher"] if name in asked else None for name in settings["parts"]}
    patched = {*(settings["multitask"]["patches"] or [settings["multitask"]["share"]])} != {"all"}
    if patched and config["format"] != "torch":
        return export_each(config, teachers)
    if config["quantize"] == "int8_qat":
        raise UserError("quantize=int8_qat trains one task: export each with part=<task>, or use quantize=int8")
    modules = {name: restore(part_checkpoint(checkpoint, name), teacher) for name, teacher in teachers.items()}
    write = write_weights if config["format"] == "torch" else write_one_pass
    seed_everything(settings["seed"], verbose=False)
    target = export_folder(config, path, next(iter(modules.values())))
    with atomic_folder(target, config["overwrite"]) as folder:
        spec, runners = write(config, path, checkpoint, modules, folder)
        if spec.format != "torch":  # with torch, each task has its own view
            spec.input["center_crop"] = common_view(modules)
        parts = {name: task_entry(config, name, module, spec, runners[name]) for name, module in modules.items()}
        spec.metrics = {name: part["metrics"] for name, part in parts.items()}
        spec.note = "; ".join(f"{name}: {part['note']}" for name, part in parts.items() if part["note"]) or None
        finish(spec, checkpoint, modules, parts, folder)
    report(parts, spec, target)
    return target


def export_each(config: dict[str, Any], teachers: dict[str, str | None]) -> Path:
    """Writes a file for each task (with its teacher), because tasks with different layers each need a forward pass.
    The same `provenance.shared_sha256` in their model.json shows that they share a backbone.
    """
    targets, failed = [], []
    for name, teacher in teachers.items():
        try:
            targets.append(export(config | {"part": name, "teacher": teacher}))
        except UserError as error:
            failed.append(f"{name}: {error}")
    if failed:
        raise UserError("; ".join(failed))
    return targets[0].parent


def write_one_pass(
    config: dict[str, Any], path: Path, checkpoint: dict[str, Any], modules: dict[str, TaskModule], folder: Path
) -> tuple[Spec, dict[str, Runner]]:
    """Writes one file that runs the backbone once; returns its spec, and for each task a runner of its outputs."""
    file_format, first = FORMATS[config["format"]], next(iter(modules.values()))
    check_sides(modules)
    again = {name: restore(part_checkpoint(checkpoint, name)).model for name in modules}
    graph = Graph(OnePass(again), config["input"], file_format.with_nms)
    spec = new_spec(config, file_format, path, first, graph)
    pixels = graph.example(1 if file_format.free_batch else config["batch"], first.resolution)
    file = folder / spec.file
    inputs = calibration_inputs(config, modules, graph) if config["quantize"] == "int8" else np.empty(0)
    file_format.module().write(Job(graph, pixels, spec.names, file, inputs, checkpoint))
    runner = file_format.module().Runner(file, THREADS)
    spec.cost = graph.model.cost(first.resolution).millions
    spec.latency = latency(graph, runner, file_format, first.resolution, config["batch"])

    def outputs(name: str, pixels: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        return [value for key, value in zip(spec.names, runner(pixels), strict=True) if key.startswith(f"{name}.")]

    return spec, {name: partial(outputs, name) for name in modules}


def write_weights(
    config: dict[str, Any], path: Path, checkpoint: dict[str, Any], modules: dict[str, TaskModule], folder: Path
) -> tuple[Spec, dict[str, Runner]]:
    """Writes the checkpoint as one safetensors file; returns its spec, and for each task a runner of its outputs."""
    file_format, whole = FORMATS["torch"], restore(checkpoint)
    graphs = {name: Graph(module.model, config["input"], file_format.with_nms) for name, module in modules.items()}
    specs = {name: new_spec(config, file_format, path, modules[name], graph) for name, graph in graphs.items()}
    spec = next(iter(specs.values()))
    spec.outputs = [o | {"name": f"{n}.{o['name']}"} for n, own in specs.items() for o in own.outputs]
    spec.input["size"] = whole.resolution
    write_checkpoint(checkpoint, config["input"], folder / spec.file)
    stored = load_checkpoint(folder / spec.file)
    runners = {
        name: file_format.module().Network(restore(part_checkpoint(stored, name)).model, config["input"])
        for name in modules
    }
    samples = {name: graph.example(1, modules[name].resolution).numpy() for name, graph in graphs.items()}

    def run_all(_: npt.NDArray[Any]) -> None:
        for name, runner in runners.items():
            runner(samples[name])

    first = next(iter(modules))
    params = {t.data_ptr(): t.numel() for key, t in checkpoint["state_dict"].items() if PARAMETER.search(key)}
    spec.cost = whole.model.cost(whole.resolution).millions | {"params_m": sum(params.values()) / 1e6}
    spec.latency = latency(graphs[first], run_all, file_format, modules[first].resolution, 1)
    return spec, runners


def finish(
    spec: Spec,
    checkpoint: dict[str, Any],
    modules: dict[str, TaskModule],
    parts: dict[str, dict[str, Any]],
    folder: Path,
) -> None:
    """Writes the other files of the export's folder."""
    file = folder / spec.file
    spec.task, spec.answer = "multitask", together.__name__
    spec.labels = checkpoint["suite"]["labels"]
    spec.provenance["config"] = without_paths(checkpoint["suite"]["config"])
    spec.cost["megabytes"] = file.stat().st_size / 1e6
    spec.sha256 = sha256(file)
    write_spec(folder, spec, {"parts": parts})
    results = {name: module.result_type for name, module in modules.items()}
    pretrained = next(iter(modules.values())).resolved.get("pretrained")
    facts = asdict(spec) | {"parts": parts, "pretrained": pretrained}
    (folder / CARD).write_text(joint_card(facts, results), encoding="utf-8")
    if spec.format == "torch":  # each task has its own input, so only this suite can run the file
        return
    file_format = FORMATS[spec.format]
    helpers = {f for m in modules.values() for f in (*m.result_type.helpers, m.result_type.to_plain)}
    functions = [*sorted(helpers, key=lambda f: f.__name__), together]
    (folder / "example.py").write_text(example(spec, functions, file_format.module().EXAMPLE, file_format.needs))


def check_sides(modules: dict[str, TaskModule]) -> None:
    """Raises UserError if the tasks have different input sizes."""
    sides = {name: module.resolution for name, module in modules.items()}
    if len({*sides.values()}) > 1:
        words = ", ".join(f"{name} {side} px" for name, side in sides.items())
        raise UserError(
            f"part=all needs the same input size for all tasks (task.resolution=...), not {words}; or use format=torch"
        )


def calibration_inputs(config: dict[str, Any], modules: dict[str, TaskModule], graph: Graph) -> npt.NDArray[Any]:
    """Calibration inputs from training images, the same number for each task."""
    count = -(-config["calibration"] // len(modules))
    samples = [x for module in modules.values() for x in calibration(evaluation_data(config, module), count)]
    return np.asarray(graph.pixels(torch.cat(samples)).numpy())


def task_entry(config: dict[str, Any], name: str, module: TaskModule, spec: Spec, runner: Runner) -> dict[str, Any]:
    """A task's entry in model.json, with its metrics before and after; adds its output differences to `spec`."""
    graph = Graph(module.model, config["input"], FORMATS[spec.format].with_nms)
    names = [output.removeprefix(f"{name}.") for output in spec.names if output.startswith(f"{name}.")]
    data = evaluation_data(config, module)
    before, count = measure(module, data, config["images"])
    check_measured(module, before)
    data = evaluation_data(config, module)  # without the images that were kept
    if spec.format != "torch" and isinstance(data, ClassificationData):
        data.center_crop = spec.input["center_crop"]  # the file has one view for all tasks
    found = differences(graph, runner, images(data, COMPARED))
    spec.differences |= {f"{name}.{key}": value for key, value in found.items()}
    after, _ = measure(module, data, config["images"], RuntimeModel(graph, runner, names))
    facts = {"labels": module.labels, "answer": module.result_type.to_plain.__name__}
    metrics = metric_entry(config, module, count, before, after)
    return facts | module.result_settings() | module.export_metadata() | {"metrics": metrics, "note": data.note}


def common_view(modules: dict[str, TaskModule]) -> float | None:
    """The `center_crop` of all tasks, a share of the shorter side; None, the whole image, if they differ."""
    views = {module.config["data"].get("center_crop") for module in modules.values()}
    if len(views) > 1:
        log.warning("the tasks have different values of data.center_crop; the file takes the whole image")
    return views.pop() if len(views) == 1 else None


def report(parts: dict[str, Any], spec: Any, target: Path) -> None:
    table = Table("", "checkpoint", "file", title=f"{len(parts)} tasks in {spec.cost['megabytes']:.2f} MB")
    for name, part in parts.items():
        metrics = part["metrics"]
        key = metrics["primary"]
        table.add_row(f"{name}: {key}", *(f"{metrics[when][key]:.4f}" for when in ("before", "after")))
    console = Console()
    console.print(table)
    if spec.note:
        console.print(f"note: {spec.note}", soft_wrap=True)
    command = f"{shlex.join(['python', str(target / 'example.py')])} <image>"
    if spec.format == "torch":
        command = f"python -m tasks.predict {shlex.quote(f'ckpt={target}')} input=<image>"
    console.print(f"wrote {target}, described in its {CARD}; try: {command}", soft_wrap=True)
    for name, part in parts.items():
        if problem := drop_problem(part["metrics"], f"{name}/{part['metrics']['primary']}"):
            raise UserError(f"{target} is kept, but {problem}")
