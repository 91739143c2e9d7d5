"""The report on a data set in the terminal."""

from pathlib import Path

from rich import box
from rich.table import Table

from backbones.console import Console
from tasks.inspect.figures import Histogram, by_split, formats, histograms, sizes
from tasks.inspect.findings import Finding
from tasks.inspect.survey import Survey

WIDTH = 120  # columns at most
GAP = 2  # columns between those of a table
TITLE = 48  # columns of a finding's title at most; longer ones are wrapped
NAME = 24  # characters of a file's name
BAR = 24  # columns of a histogram's longest bar


def show(survey: Survey, root: Path, description: str) -> None:
    """Prints the report, in at most WIDTH columns; `description` is the task and format of the data in `root`."""
    console = Console(highlight=False)
    console.width = min(WIDTH, console.width)
    contents = survey.contents
    console.print(f"{root}: {description}")
    table = _table("", *contents.splits, *contents.same)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in by_split(survey):
        table.add_row(name, *row)
    console.print(table)
    console.print(f"formats: {formats(survey)}\nsizes: {sizes(survey)}")
    for histogram in histograms(survey):
        console.print(histogram.title, style="bold")
        console.print(_bars(histogram))
    console.print(_odd(survey.findings, console.width) if survey.findings else "no findings")
    if survey.decoded < len(set(contents.paths)):
        console.print(f"only {survey.decoded:,} images were decoded and checked for faults of pixels")
    for advice in survey.advice:
        console.print(f"{advice.settings}: {advice.why}" if advice.settings else advice.why)


def _table(*head: str) -> Table:
    return Table(*head, box=box.SIMPLE_HEAD, padding=(0, GAP, 0, 0), pad_edge=False)


def _bars(histogram: Histogram) -> Table:
    most = max(count for _, count in histogram.bars)
    bars = Table.grid(padding=(0, 2))
    for name, count in histogram.bars:
        bars.add_row(f"  {name}", f"{count:,}", "█" * round(BAR * count / most))
    bars.columns[1].justify = "right"
    return bars


def _odd(findings: list[Finding], width: int) -> Table:
    table = _table("", "finding", "for example")
    table.columns[0].justify = "right"
    counts, titles = max(len(f"{f.count:,}") for f in findings), min(TITLE, max(len(f.title) for f in findings))
    table.columns[1].width = titles
    table.columns[2].no_wrap = True
    # a long one would push the others out
    table.columns[2].max_width = max(8, width - counts - titles - 2 * (GAP + 1) - 2)
    for finding in findings:
        example = finding.examples[0]
        name = f"{_short(example.path.name)}: " if example.path else ""
        table.add_row(f"{finding.count:,}", finding.title, name + example.words, style="" if finding.fault else "dim")
    return table


def _short(name: str) -> str:
    """A file's name, without its middle if it is long."""
    return name if len(name) <= NAME else f"{name[: NAME // 2 - 1]}…{name[-NAME // 2 :]}"
