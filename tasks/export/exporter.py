"""Makes an export: writes the file, runs it, and measures how the task's metric changes."""

import hashlib
import json
import logging
import math
import shlex
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import seed_everything
from rich.table import Table
from torch import Tensor

from backbones.console import Console
from backbones.errors import UserError
from backbones.processors import processor_name, usable_cores
from data.base import SuiteData
from data.files import atomic_folder
from data.seeding import Progress
from tasks.engine.checkpoint import find_checkpoint, load_checkpoint, part_checkpoint, run_of
from tasks.engine.names import plain_name
from tasks.engine.options import locate
from tasks.engine.report import ABSENT
from tasks.engine.start import saved_data, setup
from tasks.engine.task import TaskModule, restore
from tasks.export.card import CARD, card, shown
from tasks.export.formats import FORMATS, Format
from tasks.export.graph import Graph, Job
from tasks.export.package import VERSION, Spec, example, sha256, without_paths, write_spec
from tasks.export.qat import fine_tune
from tasks.export.speed import times
from tasks.export.verify import RuntimeModel, differences, measure, most_sensitive_layers

log = logging.getLogger(__name__)

THREADS = usable_cores()
COMPARED = 32  # validation images whose outputs are compared with the network's
TRIED = 4  # training images on which the int8 error of each layer is measured
TIMED = 0.2  # seconds for which the latency is measured
MAX_DROP = {"none": 1.0, "int8": 2.0, "int8_qat": 2.0}  # hundredths


def export(config: dict[str, Any]) -> Path:
    """Writes and checks an export, and returns its folder.

    Raises:
        UserError: the settings or the data need correction, the metric cannot be measured, or it drops by more than
            `max_drop` (the file is kept).
    """
    setup()
    file_format, int8 = FORMATS[config["format"]], config["quantize"] != "none"
    path = find_checkpoint(config["ckpt"])
    whole = load_checkpoint(path)
    checkpoint = chosen_part(whole, config["part"])
    module = restore(checkpoint, config["teacher"])
    target = export_folder(config, path, module)
    if config["part"] == "backbone":
        if not module.model.has_whole_backbone:
            raise UserError("part=backbone: Faster R-CNN has the last blocks of its backbone in its second stage")
        return export_backbone(config, checkpoint, target)
    graph = Graph(module.model, config["input"], file_format.with_nms)
    spec = new_spec(config, file_format, path, module, graph)
    seed_everything(checkpoint["suite"]["config"]["seed"], verbose=False)  # for the crops used in calibration
    with atomic_folder(target, config["overwrite"]) as folder:
        data = evaluation_data(config, module)
        samples = calibration(data, config["calibration"]) if int8 else []
        before, count = measure(module, data, config["images"])
        check_measured(module, before)
        if config["quantize"] == "int8_qat":
            fine_tune(module, data, config["qat_steps"], config["qat_lr"])
        file = folder / spec.file
        pixels = graph.example(1 if file_format.free_batch else config["batch"], module.resolution)
        inputs = graph.pixels(torch.cat(samples)).numpy() if int8 else np.empty(0)
        file_format.module().write(Job(graph, pixels, spec.names, file, inputs, checkpoint))
        runner = file_format.module().Runner(file, THREADS)
        spec.differences = differences(graph, runner, images(data, COMPARED))
        after, _ = measure(module, data, config["images"], RuntimeModel(graph, runner, spec.names))
        spec.metrics = metric_entry(config, module, count, before, after)
        spec.latency = latency(graph, runner, file_format, module.resolution, config["batch"])
        spec.note = data.note
        if whole is not checkpoint and config["quantize"] != "int8_qat":  # QAT changes the shared weights
            spec.provenance["shared_sha256"] = shared_sha256(whole["state_dict"])
        finish(spec, module, folder, file_format)
    report(spec, target)
    if problem := drop_problem(spec.metrics, module.primary):
        raise UserError(f"{target} is kept, but {problem}; {reasons(graph, samples, spec)}")
    return target


def chosen_part(checkpoint: dict[str, Any], part: str) -> dict[str, Any]:
    """The checkpoint to export; of a multi-task run, the checkpoint of one of its tasks.

    Raises:
        UserError: there is no such part.
    """
    tasks = checkpoint["suite"].get("config", {}).get("parts", {})
    if not tasks and part not in ("model", "backbone"):
        raise UserError(f"part={part}: the run has one task; choose from model, backbone")
    if tasks and part == "model":
        raise UserError(f"the run has several tasks: set part= to all or to one of {', '.join(tasks)}")
    if tasks and part == "backbone":
        return part_checkpoint(checkpoint, next(iter(tasks)))
    return part_checkpoint(checkpoint, part) if tasks else checkpoint


def shared_sha256(state: Mapping[str, Tensor]) -> str:
    """The digest of the weights that several tasks of a run share; the same for all files with that backbone."""
    owners: dict[int, list[str]] = {}
    for name, tensor in state.items():
        owners.setdefault(tensor.data_ptr(), []).append(name)
    shared = sorted(names[0] for names in owners.values() if len(names) > 1)
    digest = hashlib.sha256()
    for name in shared:
        digest.update(state[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def export_backbone(config: dict[str, Any], checkpoint: dict[str, Any], target: Path) -> Path:
    """Writes only the backbone, loads it by `backbone.weights`, and records how much its last feature map differs."""
    from tasks.export.to_torch import write_backbone

    settings = checkpoint["suite"]["config"]["backbone"]
    if "alpha" not in settings:
        raise UserError("part=backbone works only with backbone=mobilenet_v1")
    resolution = checkpoint["suite"]["resolution"]
    with atomic_folder(target, config["overwrite"]) as folder:
        file = folder / "backbone.safetensors"
        write_backbone(checkpoint, file)
        again = locate(checkpoint["suite"]["config"], "backbone")(
            **{k: v for k, v in settings.items() if k != "rho"} | {"weights": str(file), "pretrained": False}
        )
        own = restore(checkpoint).model.backbone
        image = torch.rand(1, 3, resolution, resolution)
        with torch.inference_mode():
            wanted, got = own(image)[-1], again.eval()(image)[-1]
        difference = float((wanted - got).abs().max())
        kept = without_paths(settings)
        facts = {"backbone": kept, "sha256": sha256(file), "difference": difference, "version": VERSION}
        (folder / "model.json").write_text(json.dumps(facts) + "\n")
    where = target / "backbone.safetensors"
    command = shlex.quote(f"backbone.weights={where}")
    Console().print(f"wrote {where}: start a task from it with {command}", soft_wrap=True)
    return target


def evaluation_data(config: dict[str, Any], module: TaskModule) -> SuiteData:
    """The data set of the run, at its present location."""
    # no loader processes: forking is unsafe while the runtimes' threads run
    data = saved_data(module.config, config["root"], workers=0)
    data.progress = lambda: Progress(1.0)  # what a training reads at its end, without mosaics
    if module.closed_set:
        data.use_labels(module.labels)
    return data


def export_folder(config: dict[str, Any], checkpoint: Path, module: TaskModule) -> Path:
    """The folder of the export: <task>-<alpha or backbone>-<size>[-<quantize>]-<format>.

    Raises:
        UserError: the backbone's name, which the checkpoint chooses, is not one part of a path.
    """
    folder = Path(config["output"] or run_of(checkpoint) / "export")
    backbone = module.config["backbone"]
    kind = f"{backbone['alpha']:g}" if "alpha" in backbone else plain_name(backbone["name"], "backbone.name")
    name = config["part"] if config["part"] in ("backbone", "all") else module.config["task"]["name"]
    parts = [name, kind, str(module.resolution)]
    if config["quantize"] != "none":
        parts.append(config["quantize"].replace("_", "-"))
    return folder / "-".join([*parts, config["format"]])


def calibration(data: SuiteData, count: int) -> list[Tensor]:
    """Images (1, 3, R, R) uint8 as training sees them.

    Raises:
        UserError: there are none.
    """
    found: list[Tensor] = []
    try:
        for batch in data.train_dataloader():
            found += batch.images.split(1)
            if len(found) >= count:
                break
    except (UserError, OSError) as error:
        raise UserError(f"int8 needs training images for its ranges, and there are none: {error}") from error
    return found[:count]


def images(data: SuiteData, count: int) -> list[Tensor]:
    """The first batches (B, 3, R, R) uint8 of validation images, with at least `count` images if there are so many."""
    loader = data.val_dataloader()
    return [batch.images for _, batch in zip(range(-(-count // data.batch_size)), loader, strict=False)]


def check_measured(module: TaskModule, metrics: dict[str, float]) -> None:
    """Raises UserError if nothing says how much the file may lose: a detector's AP without boxes, for example."""
    value = metrics[module.primary]
    if value == ABSENT or not math.isfinite(value):
        raise UserError(f"{module.primary} could not be measured on these images; give images=<more>")


def metric_entry(
    config: dict[str, Any], module: TaskModule, images: int, before: dict[str, float], after: dict[str, float]
) -> dict[str, Any]:
    """The metrics in model.json; the drop is in hundredths of the primary metric's unit."""
    if images < 200:
        log.warning("only %d validation images: the metrics are not reliable", images)
    limit = config["max_drop"]
    return {
        "primary": module.primary,
        "images": images,
        "before": before,
        "after": after,
        "drop": 100 * (before[module.primary] - after[module.primary]) * (1 if module.mode == "max" else -1),
        "max_drop": MAX_DROP[config["quantize"]] if limit is None else limit,
    }


def drop_problem(metrics: dict[str, Any], name: str) -> str | None:
    """What is wrong if the metric, called `name` here, falls by more than `max_drop`; None if it does not."""
    drop, limit = metrics["drop"], metrics["max_drop"]
    if drop <= limit:  # false for nan
        return None
    return f"{name} falls by {drop / 100:.4f}, more than {limit / 100:g} (max_drop={limit:g}, in hundredths)"


def new_spec(config: dict[str, Any], file_format: Format, path: Path, module: TaskModule, graph: Graph) -> Spec:
    """The spec of a file that is still to be written."""
    pixels = graph.example(1, module.resolution)
    with torch.inference_mode():
        outputs = graph.named(pixels)
    batch = "batch" if file_format.free_batch else config["batch"]
    meanings = graph.model.export_spec.outputs

    def facts(name: str, tensor: Tensor) -> dict[str, Any]:
        return {"name": name, "shape": [batch, *tensor.shape[1:]], "type": str(tensor.dtype).removeprefix("torch.")}

    view = {
        "layout": config["input"],
        "size": module.resolution,
        "center_crop": module.config["data"].get("center_crop"),
        "values": "RGB, 0 to 255",
    }
    cost = module.model.cost(module.resolution)
    return Spec(
        task=module.config["task"]["name"],
        format=file_format.name,
        quantize=config["quantize"],
        file=f"model{file_format.suffix}",
        input=facts("image", pixels) | view,
        normalization=module.resolved["normalization"],
        outputs=[facts(name, t) | {"meaning": meanings.get(name, "")} for name, t in outputs.items()],
        answer=module.result_type.to_plain.__name__,
        labels=module.labels,
        cost=cost.millions,
        versions={name: version(name) for name in ("torch", "torchvision", file_format.runtime)},
        provenance={
            "checkpoint": path.name,
            "checkpoint_sha256": sha256(path),
            "exported": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "config": without_paths(module.config),
        },
    )


def latency(graph: Graph, runner: Any, file_format: Format, resolution: int, batch: int) -> dict[str, Any]:
    """The latency of an image in the file's own runtime, in this process."""
    pixels = graph.example(1 if file_format.free_batch else batch, resolution).numpy()
    found = np.array(times(lambda: runner(pixels), TIMED)) * 1e3 / len(pixels)
    return {
        "median_ms": round(float(np.median(found)), 3),
        "p95_ms": round(float(np.percentile(found, 95)), 3),
        "calls": len(found),
        "batch": len(pixels),
        "threads": torch.get_num_threads() if file_format.name == "torch" else THREADS,
        "machine": processor_name(),
        "runtime": f"{file_format.runtime} {version(file_format.runtime)}",
    }


def finish(spec: Spec, module: TaskModule, folder: Path, file_format: Format) -> None:
    """Writes the other files of the export's folder."""
    spec.sha256 = sha256(folder / spec.file)
    spec.cost["megabytes"] = (folder / spec.file).stat().st_size / 1e6
    write_spec(folder, spec, module.result_settings() | module.export_metadata())
    functions = [*module.result_type.helpers, module.result_type.to_plain]
    (folder / "example.py").write_text(example(spec, functions, file_format.module().EXAMPLE, file_format.needs))
    facts = asdict(spec) | {"pretrained": module.resolved.get("pretrained")}
    (folder / CARD).write_text(card(facts, module.result_type), encoding="utf-8")


def report(spec: Spec, target: Path) -> None:
    metrics = spec.metrics
    title = f"{spec.task} as {spec.format}, quantize={spec.quantize}: {spec.cost['megabytes']:.2f} MB"
    table = Table("", "checkpoint", "file", title=title)
    for name, value in shown(metrics["before"]):
        table.add_row(name, *(f"{v:.4f}" for v in (value, metrics["after"][name])))
    console = Console()
    console.print(table)
    words = ", ".join(f"{name} {value:.3g}" for name, value in spec.differences.items())
    console.print(f"{metrics['images']} validation images; largest difference: {words}", soft_wrap=True)
    if spec.note:
        console.print(f"note: {spec.note}", soft_wrap=True)
    command = shlex.join(["python", str(target / "example.py")])
    console.print(f"wrote {target}, described in its {CARD}; try: {command} <image>", soft_wrap=True)


def reasons(graph: Graph, samples: list[Tensor], spec: Spec) -> str:
    """The layers with the largest int8 error, or in float the output that differs most, for the error message."""
    if not samples:
        worst = max(spec.differences, key=lambda name: spec.differences[name])
        return f"its output {worst} differs by up to {spec.differences[worst]:.3g}"
    layers = most_sensitive_layers(graph, [graph.pixels(x) for x in samples[:TRIED]])
    words = ", ".join(f"{name} ({100 * loss:.1f} %)" for name, loss in layers)
    return f"the layers whose rounding changes the outputs most are {words}"
