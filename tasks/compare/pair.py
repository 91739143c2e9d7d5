"""Two runs of a task side by side: metrics, settings that differ, and predictions on the same images."""

from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor
from torchvision.io import encode_png
from torchvision.transforms.v2.functional import resize
from torchvision.utils import make_grid

from backbones.console import Console
from backbones.errors import UserError
from backbones.files import atomic_write
from tasks.engine.checkpoint import load_checkpoint
from tasks.engine.config import flatten
from tasks.engine.start import saved_data, setup
from tasks.engine.task import TaskModule, restore

IGNORED = ("name", "resume", "paths.runs", "paths.data", "data.root")  # names and locations say nothing about a run


def compare_pair(config: dict[str, Any]) -> None:
    """Prints both tables and writes pair.png: truth, a and b of each image.

    Raises:
        UserError: one is not a run with a checkpoint, or they are of different tasks.
    """
    setup()
    console = Console()
    folders = [Path(config["a"]), Path(config["b"])]
    suites = []
    modules = []
    for folder in folders:
        checkpoint = load_checkpoint(folder)
        if parts := checkpoint["suite"].get("config", {}).get("parts"):
            raise UserError(
                f"{folder} is a run of several tasks ({', '.join(parts)}); compare one of them, as tasks.export "
                f"ckpt={folder} part=<task> format=torch writes it"
            )
        suites.append(checkpoint["suite"])
        modules.append(restore(checkpoint))
    tasks = [suite["task"] for suite in suites]
    if tasks[0] != tasks[1]:
        raise UserError(f"a is a run of task={tasks[0]} and b of task={tasks[1]}; two of the same task can be compared")
    console.print(metrics_table(suites, folders))
    console.print(settings_table(suites, folders))
    if not config["images"]:
        return
    page = grid(modules, config["root"], config["images"])
    output = Path(config["output"] or ".")
    output.mkdir(parents=True, exist_ok=True)
    with atomic_write(output / "pair.png") as file:
        file.write(encode_png(page).numpy().tobytes())
    console.print(f"images       {output / 'pair.png'}  (truth, a, b)", soft_wrap=True)


def metrics_table(suites: list[dict[str, Any]], folders: list[Path]) -> Table:
    found = Table("metric", *(f"{x}: {f.name}" for x, f in zip("ab", folders, strict=True)), "b - a")
    for column in found.columns[1:]:
        column.justify = "right"
    a, b = (suite["metrics"] for suite in suites)
    for name in (n for n in {**a, **b} if n != "primary"):
        cells = [f"{m[name]:.4f}" if name in m else "" for m in (a, b)]
        found.add_row(name, *cells, f"{b[name] - a[name]:+.4f}" if name in a and name in b else "")
    return found


def settings_table(suites: list[dict[str, Any]], folders: list[Path]) -> Table:
    found = Table("setting that differs", *(f"{x}: {f.name}" for x, f in zip("ab", folders, strict=True)))
    a, b = (flatten(suite["config"]) for suite in suites)
    for name in sorted({**a, **b}):
        if name not in IGNORED and a.get(name) != b.get(name):
            found.add_row(name, *(str(own.get(name, "")) for own in (a, b)))
    return found


def grid(modules: list[TaskModule], root: str | None, count: int) -> Tensor:
    """A page (3, H, W) of the first validation images of a's data: truth, a and b of each, two images per row."""
    first = modules[0].config
    rows: list[list[Tensor]] = []
    for module in modules:
        own = module.config | {"data": first["data"], "groups": first["groups"]}
        data = saved_data(own, root, workers=0, batch_size=count)
        if module.closed_set:
            if module.labels != modules[0].labels:
                raise UserError("b does not know the same classes as a, so that their images cannot be compared")
            data.use_labels(module.labels)
        batch = next(iter(data.val_dataloader()))
        with torch.inference_mode():
            predictions = module.predict(batch.images, batch.sizes)
        if not rows:
            truths = module.ground_truth(batch)
            images = [resize(im, size.tolist()) for im, size in zip(batch.images, batch.sizes, strict=True)]
            rows = [[module.draw(im, truth)] for im, truth in zip(images, truths, strict=False)]
        for row, image, prediction in zip(rows, images, predictions, strict=False):
            row.append(module.draw(image, prediction))
    pages = [resize(image, [300, 300]) for row in rows for image in row]
    return make_grid(torch.stack(pages), nrow=6, padding=6, pad_value=255)
