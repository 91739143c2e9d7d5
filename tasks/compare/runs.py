"""Reads run folders, for the commands that compare them. Nothing here needs torch, so reading a thousand is fast."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from backbones.console import plain
from backbones.errors import UserError
from backbones.files import check_regular, is_within
from data.text import read_plain_yaml
from tasks.engine.multitask_config import JOINT, tasks_of
from tasks.engine.names import metrics_of, plain_name

# limits for values from a run folder, which may be untrusted
LARGEST_FILE, LARGEST_NUMBER, LONGEST_TEXT = 1 << 26, 1e15, 200


@dataclass
class Run:
    """A run as its metrics.json describes it. Multiply-adds and parameters are in millions; unknown values are None."""

    folder: Path
    name: str
    task: str = "?"
    data: str = "?"
    state: str = "unfinished"
    metric: str = ""
    mode: str = "max"  # whether higher ("max") or lower ("min") values of the metric are better
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
    best: bool = False  # Pareto-optimal: see `mark_best`

    @property
    def group(self) -> tuple[str, str]:
        """Runs of a group can be compared: task and data set."""
        return self.task, self.data

    @property
    def finished(self) -> bool:
        return self.state == "finished" and self.primary is not None

    @property
    def quality(self) -> float:
        """The primary metric such that higher is better; the lowest where it is not known."""
        if self.primary is None:
            return -math.inf
        return self.primary if self.mode == "max" else -self.primary

    @property
    def label(self) -> str:
        """Backbone and input side in a few characters."""
        width = self.backbone if self.alpha is None else f"{self.alpha:g}"
        return f"{width}-{self.resolution}" if self.resolution else width


def read_runs(root: str | Path) -> list[Run]:
    """The runs below a folder, with Pareto-optimal ones marked. A broken one has its error as state.

    Raises:
        UserError: there is no such folder, or no run in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"runs={root}: there is no such folder; give the one that runs were written to")
    folders = {file.parent for name in ("config.yaml", "metrics.json") for file in root.rglob(name)}
    runs = [run for folder in sorted(folders) for run in with_parts(read_run(folder, root))]
    if not runs:
        raise UserError(f"runs={root}: there is no run in it; make one with python -m tasks.run")
    mark_best(runs)
    return runs


def read_run(folder: Path, root: Path) -> Run:
    """The run of a folder, named by its place below `root`."""
    run = Run(folder, plain(folder.relative_to(root).as_posix()))
    try:
        if (folder / "metrics.json").exists():
            _fill(run, json.loads(_regular(folder / "metrics.json").read_bytes()))
        else:  # killed before its first validation
            _settings(run, read_plain_yaml(_regular(folder / "config.yaml")))
    except UserError as error:
        return Run(folder, run.name, state=f"broken: {error}"[:100])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        first = str(error).splitlines()[0] if str(error) else ""
        return Run(folder, run.name, state=f"broken: {type(error).__name__} {plain(first)}"[:100])
    run.name = run.name.removeprefix(f"{run.task}/")
    return run


def with_parts(run: Run) -> list[Run]:
    """The run; for a multi-task run, each of its tasks too, to be listed beside the task's own runs."""
    found = [run]
    parts = run.content.get("parts")
    for name, facts in parts.items() if isinstance(parts, dict) else ():
        try:
            found.append(_part(run, name, facts))
        except (UserError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            state = f"broken: {type(error).__name__} {plain(str(error))}"[:100]
            found.append(Run(run.folder, f"{run.name} {plain(str(name))[:40]}", state=state))
    return found


def _part(run: Run, name: str, facts: dict[str, Any]) -> Run:
    folder = run.folder / plain_name(name, "a part")
    if not is_within(folder, run.folder):
        raise ValueError(f"{name} is a link")
    part = Run(folder, f"{JOINT}/{run.name}", state=run.state, seconds=run.seconds, epochs=run.epochs)
    settings = run.content["settings"]["parts"][name]
    _settings(part, settings)
    part.content = facts | {"settings": settings}
    part.metric, part.mode = _text(facts["primary"]), "min" if facts.get("mode") == "min" else "max"
    part.metrics = metrics_of(run.metrics, name)
    part.primary = part.metrics.get(part.metric)
    part.madds_m, part.params_m = (_cost(facts["cost"][key]) for key in ("madds_m", "params_m"))
    part.resolution = _whole(facts.get("resolution"))
    return part


def _regular(path: Path) -> Path:
    """The path, if it is of a regular file: reading a pipe may block, and a device may never end."""
    check_regular(path, LARGEST_FILE)
    return path


def _fill(run: Run, content: dict[str, Any]) -> None:
    """Sets a run's values from a metrics.json; raises ValueError, TypeError or KeyError if one has a wrong type."""
    _settings(run, content["settings"])
    run.content = content
    run.state = "unfinished" if content["state"] == "running" else _text(content["state"])
    run.metric = _text(content["primary"])
    run.mode = "min" if content.get("mode") == "min" else "max"
    metrics = {_text(name): _number(value) for name, value in content["metrics"].items() if name != "primary"}
    run.metrics = {name: value for name, value in metrics.items() if value is not None}
    run.primary = run.metrics.get(run.metric)
    run.madds_m, run.params_m = (_cost(content["cost"][name]) for name in ("madds_m", "params_m"))
    run.latency_ms = browser_latency(run.folder) or _number(content.get("speed", {}).get("latency_ms"))
    run.seconds, run.epochs = _number(content["seconds"]), _whole(content["epoch"])
    run.resolution = _whole(content.get("resolution"))
    # NaN and Infinity as strings: the page's JSON has no such numbers, and one would break the page for all runs
    run.changed = dict(json.loads(json.dumps(content.get("changed", {})), parse_constant=str))


def browser_latency(folder: Path) -> float | None:
    """The smallest median of the run's exports in its browser.json, which the page of tasks.page measured; None without
    it. A page may have exports of several runs: files are recognised by their digests.
    """
    try:
        rows = json.loads(_regular(folder / "browser.json").read_text())["rows"]
        specs = (json.loads(_regular(path).read_bytes()) for path in folder.glob("export/*/model.json"))
        own = {str(spec.get("sha256")) for spec in specs}
        measured = [_number(row.get("median_ms")) for row in rows if row.get("sha256") in own]
        return min((latency for latency in measured if latency is not None and latency > 0), default=None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UserError):
        return None


def _settings(run: Run, config: dict[str, Any]) -> None:
    backbone = config["backbone"]
    run.task = _text(config["task"]["name"])
    run.data = "+".join(_text(task["groups"]["data"]) for task in tasks_of(config).values())[:LONGEST_TEXT]
    run.backbone = _text(backbone.get("name") or config["groups"]["backbone"])
    run.alpha, run.rho = _number(backbone.get("alpha")), _number(backbone["rho"])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]!r} should be a string")
    return plain(value)[:LONGEST_TEXT]


def _number(value: Any) -> float | None:
    """A number as a float, None where it is absent or not finite."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{str(value)[:40]!r} should be a number")
    if math.isfinite(value) and abs(value) > LARGEST_NUMBER:
        raise ValueError(f"{value:g} is out of range")
    return float(value) if math.isfinite(value) else None


def _cost(value: Any) -> float:
    number = _number(value)
    if number is None or number <= 0:
        raise ValueError(f"a cost of {value}")
    return number


def _whole(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def groups(runs: Iterable[Run]) -> list[tuple[tuple[str, str], list[Run]]]:
    """Runs by task and data set; unknown tasks come last."""
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
        for i in frontier([(r.madds_m or 0.0, r.quality) for r in done]):
            done[i].best = True
