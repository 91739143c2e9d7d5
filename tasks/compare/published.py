"""The MobileNets paper's tables, read from published.yaml."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml


@dataclass(frozen=True)
class PublishedModel:
    """A row of a table: metrics in %, multiply-adds and parameters in millions, None where none is printed. `run` are
    the settings that measure it with this suite, None if it cannot; `peer` names the same model in torchvision.
    """

    name: str
    values: list[float]
    madds_m: float | None = None
    params_m: float | None = None
    run: str | None = None
    peer: str | None = None


@dataclass(frozen=True)
class PaperTable:
    """A table of models: `metrics` names the values as our tasks do; `data` and `classes` are what a run of ours must
    have to be compared with the paper.
    """

    number: int
    title: str
    task: str
    dataset: str
    data: str
    metrics: list[str]
    run: str
    rows: list[PublishedModel]
    classes: tuple[int, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Point:
    """A published model in a task's trade-off plot; `value` in 0..1, as our metrics."""

    name: str
    value: float
    madds_m: float
    params_m: float


@cache
def content() -> dict[str, Any]:
    """The content of published.yaml."""
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())


def tables() -> list[PaperTable]:
    """The paper's tables of models, 4 to 14."""
    return [
        PaperTable(**{**entry, "rows": [PublishedModel(**row) for row in entry["rows"]]})
        for entry in content()["models"]
    ]


def points(task: str) -> tuple[str, list[Point]]:
    """The data set and the models that the paper has for a task, each model once, with the mean of its values."""
    found: dict[str, Point] = {}
    dataset = ""
    for table in (t for t in tables() if t.task == task):
        dataset = table.dataset
        for row in table.rows:
            if row.madds_m and row.params_m:
                found.setdefault(row.name, Point(row.name, fmean(row.values) / 100, row.madds_m, row.params_m))
    return dataset, list(found.values())
