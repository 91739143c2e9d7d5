"""python -m tasks.compare runs=<folder>: all runs side by side, as a table and a page; a=<run> b=<run>: two of them."""

import csv
import io
import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from backbones.console import Console
from backbones.errors import UserError
from backbones.files import atomic_write, is_within
from data.image_file import BadImage, open_image
from tasks.compare.published import points
from tasks.compare.runs import Run, groups, read_runs
from tasks.engine.config import arguments, load_config, one_line_errors
from tasks.engine.drawing import data_url

SORTED = {"primary": "primary", "madds": "madds_m", "params": "params_m", "latency": "latency_ms"}
COLUMNS = (
    *("task", "data", "name", "state", "best", "metric", "primary", "madds_m", "params_m", "latency_ms"),
    *("backbone", "alpha", "rho", "resolution", "epochs", "seconds", "folder"),
)
# where a spreadsheet may see a formula: at the start of a cell, or after a cell separator of some locales
FORMULA = re.compile(r"""^(?=[\t\r\n])|(^|[;|\t\r\n])(?=[\s"']*[=+\-@])""")
MAX_IMAGES = 24  # in the page, each about 100 kB
CAPTIONS = {"predictions.png": "truth left, prediction right", "hard_pairs.png": "the hardest pairs"}


def order(runs: Sequence[Run], by: str) -> list[Run]:
    """The best first if `by` is primary, else the smallest first; runs without a value come last."""
    name = SORTED.get(by, by)

    def key(run: Run) -> tuple[bool, Any]:
        value = getattr(run, name)
        return value is None, 0 if value is None else -run.quality if name == "primary" else value

    return sorted(runs, key=key)


def tables(runs: Sequence[Run], sort: str) -> Iterator[Table]:
    """One for each task and data set, of a common width that fits a terminal of 80 columns."""
    width = min(25, max(len(run.name) for run in runs))
    for (task, data), own in groups(runs):
        metric = next((run.metric for run in own if run.metric), "value")
        title = Text("broken" if task == "?" else f"{task} on {data}: {metric}", "bold")
        found = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title=title, title_justify="left")
        found.add_column("", min_width=1)
        found.add_column("run", min_width=width)
        for name, least in (
            ("value", 6),
            ("M madds", 8),
            ("M params", 8),
            ("ms", 5),
            ("alpha", 5),
            ("px", 3),
            ("min", 4),
        ):
            found.add_column(name, justify="right", no_wrap=True, min_width=least)
        for run in order(own, sort):
            name = run.name if run.finished else f"{run.name}: {run.state}"
            figures = [_figure(v, d) for v, d in ((run.primary, 3), (run.madds_m, 1), (run.params_m, 2))]
            more = [_figure(run.latency_ms, 1), _figure(run.alpha), _figure(run.resolution)]
            style = "green" if run.best else None if run.finished else "dim"
            minutes = _figure(run.seconds and run.seconds / 60, 1)
            found.add_row("★" if run.best else "", name, *figures, *more, minutes, style=style)
        yield found


def _figure(value: float | None, digits: int | None = None) -> str:
    return "" if value is None else f"{value:g}" if digits is None else f"{value:,.{digits}f}"


def write_csv(runs: Sequence[Run], path: Path) -> None:
    """One row per run; every metric that any run has is a column."""
    metrics = sorted({name for run in runs for name in run.metrics})
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([*COLUMNS, *map(_cell, metrics)])
    for run in runs:
        writer.writerow([*(_cell(getattr(run, c)) for c in COLUMNS), *(run.metrics.get(m) for m in metrics)])
    with atomic_write(path) as file:  # an untrusted folder of runs may contain links
        file.write(text.getvalue().encode(errors="replace"))


def _cell(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula gets an apostrophe in front; numbers stay numbers."""
    return FORMULA.sub(r"\1'", str(value)) if isinstance(value, str | Path) else value


def write_page(runs: Sequence[Run], path: Path) -> None:
    """Writes the page, a single self-contained file."""
    shown = sorted((r for r in runs if r.finished), key=lambda r: (not r.best, -r.quality))[:MAX_IMAGES]
    entries = []
    for run in runs:
        entry = {c: getattr(run, c) for c in (*COLUMNS, "label", "mode")} | {"folder": str(run.folder)}
        entry |= {"metrics": run.metrics, "changed": run.changed, "image": None}
        for name, caption in CAPTIONS.items() if any(run is s for s in shown) else ():
            if entry["image"] is None and is_within(run.folder / name, run.folder):
                entry |= {"image": thumbnail(run.folder / name), "caption": caption}
        entries.append(entry)
    published = {}
    for task in {run.task for run in runs}:
        dataset, found = points(task)
        published[task] = {"dataset": dataset, "points": [vars(p) for p in found]}
    content = {"runs": entries, "published": published, "date": time.strftime("%Y-%m-%d")}
    data = json.dumps(content).replace("<", "\\u003c")  # no name can close the script element
    page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    with atomic_write(path, "w", encoding="utf-8") as file:
        file.write(page.replace("{{data}}", data))


def thumbnail(path: Path, width: int = 900) -> str | None:
    """An image as a data URL; None if it cannot be read."""
    try:
        with open_image(path) as image:
            small = image.convert("RGB")
            small.thumbnail((width, 4 * width))
    except BadImage:
        return None
    return data_url(small)


def compare(config: dict[str, Any]) -> None:
    from tasks.compare.tradeoff import tradeoff

    console = Console()
    runs = read_runs(config["runs"])
    for table in tables(runs, config["sort"]):
        console.print(table)
    done = [run for run in runs if run.finished]
    console.print(
        f"{len(done)} of {len(runs)} runs finished; ★: Pareto-optimal, no other run in the same table is at least as "
        "good with no more multiply-adds"
    )
    output = Path(config["output"] or config["runs"])
    output.mkdir(parents=True, exist_ok=True)
    write_csv(runs, output / "compare.csv")
    with atomic_write(output / "compare.png") as picture:
        tradeoff(runs, picture)
    write_page(runs, output / "compare.html")
    console.print(f"see {output / 'compare.html'}, and compare.png and compare.csv beside it", soft_wrap=True)


def main() -> None:
    with one_line_errors():
        config = load_config(arguments("compare"), "compare")
        if config["a"] and config["b"]:
            from tasks.compare.pair import compare_pair

            compare_pair(config)
        elif config["a"] or config["b"]:
            raise UserError("two runs are compared with a=<run folder> b=<run folder>")
        else:
            compare(config)


if __name__ == "__main__":
    main()
