"""Reads run folders, for the commands that compare them. Nothing here needs torch, so that a thousand read fast."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from backbones.errors import UserError

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class Run:
    """What metrics.json says of a run. Metrics are shares or whatever the task logs, higher is better in `primary`;
    multiply-adds and parameters are in millions. What a run does not know is None.
    """

    folder: Path
    name: str
    task: str = "?"
    data: str = "?"
    state: str = "unfinished"
    metric: str = ""
    primary: float | None = None
    madds_m: float | None = None
    params_m: float | None = None
    latency_ms: float | None = None
    seconds: float | None = None
    epochs: int | None = None
    backbone: str = "?"
    alpha: float | None = None
    rho: float | None = None
    resolution: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    changed: dict[str, Any] = field(default_factory=dict)
    content: dict[str, Any] = field(default_factory=dict, repr=False)
    best: bool = False  # no cheaper run of its group is as good: see `mark_best`

    @property
    def group(self) -> tuple[str, str]:
        """Runs of a group can be compared: task and data set."""
        return self.task, self.data

    @property
    def finished(self) -> bool:
        return self.state == "finished" and self.primary is not None

    @property
    def label(self) -> str:
        """Backbone and input side in a few characters."""
        width = self.backbone if self.alpha is None else f"{self.alpha:g}"
        return f"{width}-{self.resolution}" if self.resolution else width


def read_runs(root: str | Path) -> list[Run]:
    """The runs below a folder, those marked that are best for their cost. A broken one says so in its state.

    Raises:
        UserError: there is no such folder, or no run in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"runs={root}: there is no such folder; give the one that runs were written to")
    folders = {file.parent for name in ("config.yaml", "metrics.json") for file in root.rglob(name)}
    runs = [read_run(folder, root) for folder in sorted(folders)]
    if not runs:
        raise UserError(f"runs={root}: there is no run in it; make one with python -m tasks.run")
    mark_best(runs)
    return runs


def read_run(folder: Path, root: Path) -> Run:
    """The run of a folder, named by its place below `root`."""
    run = Run(folder, folder.relative_to(root).as_posix())
    try:
        if (folder / "metrics.json").exists():
            _fill(run, json.loads((folder / "metrics.json").read_text()))
        else:  # killed before its first validation
            _settings(run, yaml.load((folder / "config.yaml").read_text(), LOADER))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        first = str(error).splitlines()[0] if str(error) else ""
        return Run(folder, run.name, state=f"broken: {type(error).__name__} {first}"[:100])
    run.name = run.name.removeprefix(f"{run.task}/")
    return run


def _fill(run: Run, content: dict[str, Any]) -> None:
    _settings(run, content["settings"])
    run.content = content
    run.state = "unfinished" if content["state"] == "running" else str(content["state"])
    run.metric = str(content["primary"])
    run.metrics = {name: float(v) for name, v in content["metrics"].items() if math.isfinite(v) and name != "primary"}
    run.primary = run.metrics.get(run.metric)
    run.madds_m, run.params_m = float(content["cost"]["madds_m"]), float(content["cost"]["params_m"])
    run.latency_ms = content.get("speed", {}).get("latency_ms")
    run.seconds, run.epochs = float(content["seconds"]), int(content["epoch"])
    run.resolution = content.get("resolution")
    run.changed = dict(content.get("changed", {}))


def _settings(run: Run, config: dict[str, Any]) -> None:
    backbone = config["backbone"]
    run.task, run.data = config["task"]["name"], config["groups"]["data"]
    run.backbone = backbone.get("name") or config["groups"]["backbone"]
    run.alpha, run.rho = backbone.get("alpha"), backbone["rho"]


def groups(runs: Iterable[Run]) -> list[tuple[tuple[str, str], list[Run]]]:
    """Runs by task and data set; what is not known comes last."""
    ordered = sorted(runs, key=lambda r: (r.task == "?", r.group))
    return [(group, list(own)) for group, own in groupby(ordered, key=lambda r: r.group)]


def frontier(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (cost, value) points that beat the value of all cheaper ones, cheapest first."""
    found, highest = [], -math.inf
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[i][1] > highest:
            highest = points[i][1]
            found.append(i)
    return found


def mark_best(runs: Sequence[Run]) -> None:
    """Marks in each group the finished runs on the Pareto frontier of primary metric and multiply-adds."""
    for _, own in groups(runs):
        done = [r for r in own if r.finished]
        for i in frontier([(r.madds_m or 0.0, r.primary or 0.0) for r in done]):
            done[i].best = True
