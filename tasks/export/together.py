"""One file of several tasks that share their whole backbone: part=all."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning import seed_everything
from rich.table import Table

from backbones.console import Console
from backbones.errors import UserError
from data.files import atomic_folder
from tasks.engine.checkpoint import find_checkpoint, load_checkpoint, part_checkpoint
from tasks.engine.start import setup
from tasks.engine.task import TaskModule, restore
from tasks.export.card import CARD, joint_card
from tasks.export.exporter import COMPARED, THREADS, calibration, compared, data_of, describe, images, latency, place
from tasks.export.formats import FORMATS
from tasks.export.graph import Graph, Job
from tasks.export.package import example, sha256, write_spec
from tasks.export.verify import RuntimeModel, differences, measure
from tasks.multitask.answers import together
from tasks.multitask.one_pass import OnePass

log = logging.getLogger(__name__)


def export_all(config: dict[str, Any]) -> Path:
    """Writes the file, and measures it by each task's own metric.

    Raises:
        UserError: the tasks do not share all, are of several input sides, or the file loses more than `max_drop`.
    """
    setup()
    form, path = FORMATS[config["format"]], find_checkpoint(config["ckpt"])
    checkpoint = load_checkpoint(path)
    check(config, path, checkpoint["suite"].get("config", {}))
    modules = tasks_of_one_side(checkpoint)
    first = next(iter(modules.values()))
    target = place(config, path, first)
    again = {name: restore(part_checkpoint(checkpoint, name)).model for name in modules}
    graph = Graph(OnePass(again), config["input"], form.with_nms)
    seed_everything(checkpoint["suite"]["config"]["seed"], verbose=False)
    with atomic_folder(target, config["overwrite"]) as folder:
        spec = describe(config, form, path, first, graph)
        pixels = graph.example(1 if form.free_batch else config["batch"], first.resolution)
        file = folder / spec.file
        inputs = calibration_inputs(config, modules, graph) if config["quantize"] == "int8" else np.empty(0)
        form.module().write(Job(graph, pixels, spec.names, file, inputs, checkpoint))
        runner = form.module().Runner(file, THREADS)
        parts: dict[str, Any] = {}
        for name, module in modules.items():
            own = Graph(module.model, config["input"], form.with_nms)
            parts[name] = measured(config, name, module, own, spec, runner)
        spec.task, spec.answer = "multitask", together.__name__
        spec.labels = checkpoint["suite"]["labels"]
        spec.provenance["config"] = checkpoint["suite"]["config"]
        spec.input["center_crop"] = common_view(modules)
        spec.metrics = {name: part["metrics"] for name, part in parts.items()}
        spec.cost = graph.model.cost(first.resolution).millions
        spec.cost["megabytes"] = file.stat().st_size / 1e6
        spec.latency = latency(graph, runner, form, first.resolution, config["batch"])
        spec.sha256 = sha256(file)
        write_spec(folder, spec, {"parts": parts})
        results = {name: module.result_type for name, module in modules.items()}
        (folder / CARD).write_text(joint_card(asdict(spec) | {"parts": parts}, results), encoding="utf-8")
        helpers = {f for m in modules.values() for f in (*m.result_type.helpers, m.result_type.answer)}
        functions = [*sorted(helpers, key=lambda f: f.__name__), together]
        (folder / "example.py").write_text(example(spec, functions, form.module().EXAMPLE, form.needs))
    report(parts, spec, target)
    return target


def check(config: dict[str, Any], path: Path, settings: dict[str, Any]) -> None:
    """Raises UserError if the run of these settings, or the format, cannot be one file of all tasks."""
    if not settings.get("parts"):
        raise UserError(f"part=all is of runs of several tasks; {path} is of one")
    if {*(settings["multitask"]["patches"] or [settings["multitask"]["share"]])} != {"all"}:
        raise UserError("part=all is one pass of a backbone that tasks share as a whole (multitask.share=all)")
    if config["format"] == "torch" or config["quantize"] == "int8_qat":
        raise UserError("part=all is of format=onnx, litert or executorch, with quantize=none or int8")


def tasks_of_one_side(checkpoint: dict[str, Any]) -> dict[str, TaskModule]:
    """The tasks of a checkpoint. Raises UserError if their inputs are of several sizes."""
    names = checkpoint["suite"]["config"]["parts"]
    modules = {name: restore(part_checkpoint(checkpoint, name)) for name in names}
    sides = {name: module.resolution for name, module in modules.items()}
    if len({*sides.values()}) > 1:
        words = ", ".join(f"{name} {side} px" for name, side in sides.items())
        raise UserError(f"part=all needs one input side, as task.resolution=... gives all tasks: {words}")
    return modules


def calibration_inputs(config: dict[str, Any], modules: dict[str, TaskModule], graph: Graph) -> npt.NDArray[Any]:
    """The file's inputs for training images of all tasks, as many of each."""
    count = -(-config["calibration"] // len(modules))
    samples = [x for module in modules.values() for x in calibration(data_of(config, module), count)]
    return np.asarray(graph.pixels(torch.cat(samples)).numpy())


def measured(
    config: dict[str, Any], name: str, module: TaskModule, graph: Graph, spec: Any, runner: Any
) -> dict[str, Any]:
    """A task's entry in model.json, with its metric before and after, and the largest differences of its outputs."""
    places = [i for i, output in enumerate(spec.names) if output.startswith(f"{name}.")]
    names = [spec.names[i].removeprefix(f"{name}.") for i in places]

    def own(pixels: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        found = runner(pixels)
        return [found[i] for i in places]

    data = data_of(config, module)
    before, count = measure(module, data, config["images"])
    found = differences(graph, own, images(data, COMPARED))
    spec.differences |= {f"{name}.{key}": value for key, value in found.items()}
    after, _ = measure(module, data, config["images"], RuntimeModel(graph, own, names))
    facts = {"labels": module.labels, "answer": module.result_type.answer.__name__}
    metrics = compared(config, module, count, before, after)
    return facts | module.answer_settings() | module.export_metadata() | {"metrics": metrics}


def common_view(modules: dict[str, TaskModule]) -> float | None:
    """The share of the shorter side in the view that all tasks have; None, the whole image, where they have several."""
    views = {module.config["data"].get("center_crop") for module in modules.values()}
    if len(views) > 1:
        log.warning("the tasks look at unlike parts of an image (data.center_crop); the file is given the whole image")
    return views.pop() if len(views) == 1 else None


def report(parts: dict[str, Any], spec: Any, target: Path) -> None:
    table = Table("", "checkpoint", "file", title=f"{len(parts)} tasks in {spec.cost['megabytes']:.2f} MB")
    for name, part in parts.items():
        metrics = part["metrics"]
        key = metrics["primary"]
        table.add_row(f"{name}: {key}", *(f"{metrics[when][key]:.4f}" for when in ("before", "after")))
    console = Console()
    console.print(table)
    console.print(
        f"wrote {target}, described in its {CARD}; try: python {target / 'example.py'} <image>", soft_wrap=True
    )
    for name, part in parts.items():
        drop, most = part["metrics"]["drop"], part["metrics"]["max_drop"]
        if drop > most:
            raise UserError(f"{target} is kept, but {name} falls by {drop:.2f} points, more than max_drop={most:g}")
