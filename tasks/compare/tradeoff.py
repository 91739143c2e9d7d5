"""The paper's log-linear plot: accuracy against multiply-adds and parameters."""

import fcntl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, NullFormatter
from PIL import Image

from backbones.console import Console
from backbones.files import atomic_write
from tasks.compare.published import points
from tasks.compare.runs import Run, frontier, groups, read_run

INK, MUTED, GRID, OURS, BEATEN, PAPER = "#1f2328", "#59636e", "#e4e7eb", "#2a6fdb", "#9db2d3", "#c2571a"
SPACED = ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.12)  # inches around each plot
matplotlib.rcParams["text.parse_math"] = False  # names may hold dollar signs
COSTS = {"madds_m": "multiply-adds (millions)", "params_m": "parameters (millions)"}
MOST = 12  # groups in a figure


def tradeoff(runs: Sequence[Run], path: Path | IO[bytes]) -> None:
    """Draws a row for each task and data set with finished runs, the paper's points beside ours, as a PNG.

    The line joins the Pareto-optimal runs; the others are pale.
    """
    shown = [(group, done) for group, own in groups(runs) if (done := [r for r in own if r.finished])][:MOST]
    figure = Figure(figsize=(10, 3.4 * max(1, len(shown))), dpi=130, layout=SPACED)
    grid = figure.subplots(max(1, len(shown)), 2, squeeze=False)
    if not shown:
        figure.suptitle("no finished run yet", color=MUTED)
    for ((task, data), own), axes in zip(shown, grid, strict=False):
        for axis, cost in zip(axes, COSTS, strict=True):
            _draw(axis, task, own, cost)
        axes[0].set_title(f"{task} on {data}", loc="left", fontsize=12, fontweight="bold", color=INK)
        axes[0].set_ylabel(own[0].metric, color=MUTED)
    figure.savefig(path, format="png", facecolor="white")


def add_to_sweep(folder: Path, content: Mapping[str, Any]) -> None:
    """Adds a run to a sweep, given its metrics.json, and plots all runs so far: as tradeoff.png and in TensorBoard. A
    lock serializes runs that end at the same time.
    """
    from torch.utils.tensorboard import SummaryWriter

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tradeoff.png"
    with (folder / "runs.txt").open("a+") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.lockf(file, fcntl.LOCK_EX)
        file.write(f"{content['folder']}\n")
        file.seek(0)
        places = [*map(Path, dict.fromkeys(file.read().splitlines()))]  # a repeated run is listed twice
        with atomic_write(path) as picture:
            tradeoff([read_run(place, place.parent) for place in places], picture)
        with SummaryWriter(str(folder)) as board, Image.open(path) as image:
            board.add_image("tradeoff", np.array(image.convert("RGB")), len(places), dataformats="HWC")
    Console().print(f"trade-off    {path}  ({len(places)} runs)", soft_wrap=True)


def _draw(axis: Axes, task: str, runs: Sequence[Run], cost: str) -> None:
    ours = [(getattr(r, cost), r.primary or 0.0) for r in runs]
    best = frontier([(getattr(r, cost), r.quality) for r in runs])
    axis.plot([ours[i][0] for i in best], [ours[i][1] for i in best], color=OURS, linewidth=1.5, zorder=2)
    for indices, colour, name in ((set(range(len(ours))) - set(best), BEATEN, None), (best, OURS, "ours")):
        x, y = [ours[i][0] for i in indices], [ours[i][1] for i in indices]
        axis.scatter(x, y, s=42, color=colour, edgecolor="white", linewidth=1, zorder=3, label=name)
    dataset, published = points(task)
    if published:
        x, y = [getattr(p, cost) for p in published], [p.value for p in published]
        name = f"paper, on {dataset}"
        axis.scatter(x, y, s=34, marker="D", facecolor="white", edgecolor=PAPER, linewidth=1.3, zorder=2, label=name)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel(COSTS[cost], color=MUTED)
    axis.margins(0.2, 0.15)
    axis.grid(color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(which="both", colors=MUTED, length=0)
    axis.spines[:].set_visible(False)
    axis.legend(frameon=False, fontsize=8, labelcolor=MUTED, loc="best")
    _label(axis, [(runs[i].label, ours[i]) for i in reversed(best)])


def _label(axis: Axes, labels: Sequence[tuple[str, tuple[float, float]]]) -> None:
    """Writes labels beside their points, in order; those that would overlap an earlier one are left out."""
    axis.autoscale_view()
    placed: list[tuple[float, float]] = []
    for words, point in labels:
        x, y = axis.transData.transform(point)
        if all(abs(x - u) > 75 or abs(y - v) > 17 for u, v in placed):  # pixels, about a label's size
            placed.append((x, y))
            axis.annotate(words, point, (-4, 5), textcoords="offset points", ha="right", fontsize=8, color=INK)
