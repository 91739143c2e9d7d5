"""python -m tasks.paper: tables of the MobileNets paper and of its TensorFlow Lite files, with our values beside."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from rich import box
from rich.table import Table
from torch import Tensor, nn

from backbones.base import scaled_resolution
from backbones.console import Console
from backbones.cost import Cost, counting, layer_type
from backbones.errors import UserError
from backbones.shapes import dummy_image, shapes_only
from tasks.compare import published
from tasks.compare.runs import Run, read_runs
from tasks.engine.config import arguments, load_config, load_options, one_line_errors
from tasks.engine.cost import count_cost
from tasks.engine.untrusted import PLAN


@cache
def our_cost(overrides: str) -> tuple[dict[str, Any], Cost]:
    """The configuration that command-line settings describe, and its cost."""
    choices: list[str] = []
    settings: list[tuple[str, str, str]] = []
    for override in overrides.split():
        key, _, value = override.partition("=")
        group, dot, name = key.partition(".")
        settings += [(group, name, value)] if dot else []
        choices += [] if dot else [override]
    config = load_options(choices, "cost")
    for group, name, value in settings:
        config[group][name] = yaml.safe_load(value)
    return config, count_cost(config)[1]


def body() -> Table:
    """Table 1: layer, filter and input, the convolutions as they run."""
    config, _ = our_cost("experiment=imagenet")
    module, _ = count_cost(config)
    rows: list[list[str]] = []

    def note(layer: nn.Conv2d | nn.Linear, _: object, output: Tensor) -> None:
        rows.append(layer_row(layer, output))

    for layer in (m for m in module.model.modules() if isinstance(m, nn.Conv2d | nn.Linear)):
        layer.register_forward_hook(note)
    with shapes_only(module.model):
        module.model(dummy_image(module.model, 224))
    found = Table("layer", "filter", "input", "ours", title="Table 1: the body of MobileNet")
    for printed, own in zip(expanded(published.content()["body"]), rows, strict=True):
        differing = "same" if printed == own else f"[bold]{', '.join(o for o in own if o not in printed)}[/]"
        found.add_row(*printed, differing)
    return found


def expanded(rows: Sequence[list[str]]) -> list[list[str]]:
    """The rows of Table 1, with the pair of layers printed once for five repeated five times."""
    start = next(i for i, row in enumerate(rows) if row == ["Conv dw / s1", "3x3x512 dw", "14x14x512"])
    return [*rows[:start], *(5 * list(rows[start : start + 2])), *rows[start + 2 :]]


def layer_row(layer: nn.Conv2d | nn.Linear, output: Tensor) -> list[str]:
    """A layer as the paper prints it."""
    if isinstance(layer, nn.Linear):
        return ["FC / s1", f"{layer.in_features}x{layer.out_features}", f"1x1x{layer.in_features}"]
    depthwise = " dw" if layer_type(layer) == "depthwise" else ""
    filters = [*layer.kernel_size, layer.in_channels, *([] if depthwise else [layer.out_channels])]
    stride = layer.stride[0]
    sides = [side * stride for side in output.shape[-2:]]  # before the padding
    return [
        f"Conv{depthwise} / s{stride}",
        "x".join(map(str, filters)) + depthwise,
        f"{sides[0]}x{sides[1]}x{filters[2]}",
    ]


def shares() -> Table:
    """Table 2, which leaves normalization and biases out of the parameters."""
    _, cost = our_cost("experiment=imagenet")
    columns = ("madds %", "ours", "params %", "ours")
    found = Table("layer type", *columns, title="Table 2: resources per layer type")
    bias = 1000  # the classifier's
    kernels = sum(p for kind, (_, p) in cost.layers.items() if not kind.startswith("norm")) - bias
    for kind, (madds_share, params_share) in published.content()["shares"].items():
        madds, params = cost.layers[kind]
        params -= bias if kind == "fully connected" else 0
        own = f"{100 * madds / cost.madds:.2f}", f"{100 * params / kernels:.2f}"
        found.add_row(kind, f"{madds_share:.2f}", own[0], f"{params_share:.2f}", own[1])
    return found


def layers() -> Table:
    """Table 3: the cost of one layer, by convolution, width and resolution."""
    found = Table(
        "layer", "M madds", "ours", "M params", "ours", title="Table 3: one layer, each row on top of the last"
    )
    for row in published.content()["layers"]:
        channels, side = row["channels"], row["side"]
        full = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        layer = nn.Sequential(full) if row.get("groups") == 1 else nn.Sequential(depthwise, pointwise)
        with counting(layer) as cost, shapes_only(layer):
            layer(torch.empty(1, channels, side, side))
        params = sum(p.numel() for p in layer.parameters())
        own = f"{cost.madds / 1e6:.2f}", f"{params / 1e6:.3f}"
        found.add_row(row["name"], str(row["madds_m"]), own[0], str(row["params_m"]), own[1])
    return found


def models(table: published.PaperTable, runs: Sequence[Run]) -> tuple[Table, list[str]]:
    """A table of models: the published values, our count, and our metrics if there is a run; and the commands of the
    others.
    """
    printed = " ".join(name.removeprefix("within_").removesuffix("km") for name in table.metrics)
    title = f"Table {table.number}: {table.title}"
    columns = ("ours", "M madds", "ours", "M params", "ours")
    found = Table(
        "model",
        f"{printed} %",
        *columns,
        title=title,
        caption=table.note or None,
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    found.columns[0].overflow = "fold"
    for column in found.columns[1:]:  # on a narrow terminal names wrap, figures are never cut
        column.justify, column.no_wrap = "right", True
    commands = []
    for row in table.rows:
        cost, metrics = Cost(*published.content()["peers"][row.peer]) if row.peer else None, ""
        if row.run is not None:
            overrides = f"{table.run} {row.run}".strip()
            config, cost = our_cost(overrides)
            metrics = measured(table, config, runs)
            if not metrics:
                metrics = "not run"
                commands.append(f"python -m tasks.run {overrides}")
        own = (f"{cost.madds / 1e6:,.1f}", f"{cost.params / 1e6:,.3f}") if cost else ("", "")
        madds, params = (f"{v:,g}" if v else "" for v in (row.madds_m, row.params_m))
        values = " ".join(f"{v:g}" for v in row.values)
        found.add_row(row.name, values, metrics, madds, own[0], params, own[1])
    return found, list(dict.fromkeys(commands))


def phone_files(runs: Sequence[Run]) -> Table:
    """The published TensorFlow Lite files, float and int8, and our top-1 if there is such a run on ImageNet."""
    published_files = published.content()["phone_files"]
    columns = ("float top-1", "ours", "CPU ms", "GPU ms", "MB", "int8 top-1", "CPU ms", "MB")
    title = "MobileNetV1's phone files (TensorFlow Lite's hosted models)"
    found = Table(
        "alpha, px", *columns, title=title, caption=published_files["note"], box=box.SIMPLE, padding=(0, 1, 0, 0)
    )
    (imagenet,) = (table for table in published.tables() if table.number == 6)
    config, _ = our_cost(imagenet.run)
    for column in found.columns[1:]:
        column.justify = "right"
    for alpha, side, top1, cpu, gpu, int8_top1, int8_cpu in published_files["files"]:
        network = {"backbone": config["backbone"] | {"alpha": alpha}, "task": config["task"] | {"resolution": side}}
        float_mb, int8_mb = published_files["sizes_mb"][alpha]
        own = measured(imagenet, config | network, runs)
        figures = (top1, own, cpu, gpu, float_mb, int8_top1, int8_cpu, int8_mb)
        found.add_row(f"{alpha:g}, {side}", *(f"{v:g}" if isinstance(v, float) else v for v in figures))
    return found


def measured(table: published.PaperTable, config: dict[str, Any], runs: Sequence[Run]) -> str:
    """Our metrics in %, of the best run with this network and start on this data; empty if there is none."""
    fitting = []
    for run in runs:
        if not run.finished or (run.task, run.data) != (table.task, table.data):
            continue
        if table.classes and run.content.get("classes") not in table.classes:
            continue
        settings = run.content["settings"]
        same = all(settings["backbone"].get(k) == config["backbone"].get(k) for k in ("name", "alpha", "variant"))
        resolution = scaled_resolution(config["task"]["resolution"], config["backbone"]["rho"])
        begun = start(settings, run) == start(config)
        options = all(settings["groups"].get(g) == config["groups"].get(g) for g in ("backbone", "detector"))
        known = all(name in run.metrics for name in table.metrics)
        if same and begun and options and known and run.resolution == resolution:
            fitting.append(run)
    if not fitting:
        return ""
    best = max(fitting, key=lambda run: run.quality)
    return " ".join(f"{100 * best.metrics[name]:.1f}" for name in table.metrics)


def start(settings: dict[str, Any], run: Run | None = None) -> str:
    """What a backbone started from. A later stage starts as the first one, whose settings it has. For `auto`, a run
    says whether it found weights; without a run, or in one of an earlier version, it stands for weights.
    """
    backbone, before = settings["backbone"], settings.get("ckpt")
    above = run.folder.parent if run else None
    staged = above and (above / PLAN).is_file() and Path(str(before)).parent.name == above.name
    if before and not staged:
        return "checkpoint"
    found = run.content.get("pretrained") if run else None
    pretrained = backbone.get("pretrained") if found is None else found
    return "weights" if backbone.get("weights") or pretrained else "random"


def paper(config: dict[str, Any]) -> None:
    console = Console()
    try:
        runs = read_runs(config["runs"])
    except UserError:
        if config["runs"] != "runs" and not Path(config["runs"]).is_dir():  # else nothing was run yet
            raise
        runs = []
    wanted = config["table"]
    for number, printed in ((1, body), (2, shares), (3, layers)):
        if wanted in (None, number):
            console.print(printed())
    for table in published.tables():
        if wanted in (None, table.number):
            found, commands = models(table, runs)
            console.print(found)
            for command in commands:
                console.print(f"  {command}", soft_wrap=True, highlight=False)
    if wanted is None:
        console.print(phone_files(runs))
    console.print(
        "Ours: costs are recounted from the network; metrics are those of the best run below runs= with the row's "
        "network, data and kind of initial weights."
    )


def main() -> None:
    with one_line_errors():
        paper(load_config(arguments("paper"), "paper"))


if __name__ == "__main__":
    main()
