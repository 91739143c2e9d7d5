"""python -m tasks.check data.root=<folder>: what a data set holds, what is odd about it, and what to set for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backbones.errors import UserError
from data.layouts import Layout
from tasks.engine.config import arguments, load_config, one_line_errors
from tasks.engine.layout import recognized

if TYPE_CHECKING:
    from tasks.inspect.survey import Survey

TASKS = ("detection", "classification", "faces", "embedding", "geo")  # the order in which a folder is tried
CHOSEN = ("task=", "data=", "experiment=")  # overrides that say what the data is
WIDTH = 80  # columns at most
BAR = 24  # columns of a histogram's longest bar


def with_task(overrides: Sequence[str]) -> tuple[list[str], Layout | None]:
    """The overrides with the task and data option that their data.root is recognised as, and its layout.

    Raises:
        UserError: it is no data of any task.
    """
    if any(o.startswith(CHOSEN) for o in overrides) or not any(o.startswith("data.root=") for o in overrides):
        return recognized(overrides)
    first = None
    for task in TASKS:
        try:
            return recognized([f"task={task}", *overrides])
        except UserError as error:
            first = first or error
    assert first
    raise first


def check(overrides: Sequence[str]) -> "Survey":
    """Prints the account of a data set and writes its page.

    Raises:
        UserError: the data cannot be read, or the page not be written.
    """
    overrides, layout = with_task(overrides)
    config = load_config(overrides, "check")
    output = Path(config["output"])
    from tasks.engine.train import build_data, setup
    from tasks.inspect.page import write_page
    from tasks.inspect.survey import survey

    setup()
    data = build_data(config, draw=False)
    chosen = f"task={config['groups']['task']} data={config['groups']['data']}"
    told = f"{layout.told} ({chosen})" if layout else chosen
    found = survey(data, config)
    show(found, data.root, told)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_page(found, data.root, told, output)
    except OSError as error:
        raise UserError(f"output={output} cannot be written: {error.strerror}") from error
    from backbones.console import Console

    Console().print(f"see {output}", soft_wrap=True)
    return found


def show(survey: "Survey", root: Path, told: str) -> None:
    """Prints the account, in at most WIDTH columns."""
    from rich import box
    from rich.table import Table

    from backbones.console import Console
    from tasks.inspect.figures import by_split, formats, histograms, sizes

    console = Console()
    console.width = min(WIDTH, console.width)
    contents = survey.contents
    console.print(f"{root}: {told}")
    plain = {"box": box.SIMPLE_HEAD, "padding": (0, 2, 0, 0), "pad_edge": False}
    table = Table("", *contents.splits, *contents.same, **plain)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in by_split(survey):
        table.add_row(name, *row)
    console.print(table)
    console.print(f"formats: {formats(survey)}\nsizes: {sizes(survey)}", highlight=False)
    for histogram in histograms(survey):
        most = max(count for _, count in histogram.bars)
        console.print(histogram.title, style="bold")
        bars = Table.grid(padding=(0, 2))
        for name, count in histogram.bars:
            bars.add_row(f"  {name}", f"{count:,}", "█" * round(BAR * count / most))
        bars.columns[1].justify = "right"
        console.print(bars)
    odd = Table("", "what is odd", "for example", title_justify="left", **plain)
    odd.columns[0].justify = "right"
    odd.columns[1].max_width = 40
    odd.columns[2].no_wrap = True
    for finding in survey.findings:
        example = finding.examples[0]
        words = " ".join(filter(None, [example.path.name if example.path else "", example.words]))
        odd.add_row(f"{finding.count:,}", finding.title, words, style="" if finding.fault else "dim")
    console.print(odd if survey.findings else "nothing is odd")
    if survey.decoded < len(set(contents.paths)):
        console.print(f"the pixels of {survey.decoded:,} images were looked at: faults of pixels are of these")
    for advice in survey.advice:
        console.print(f"{advice.settings}: {advice.why}" if advice.settings else advice.why, highlight=False)


def main() -> None:
    with one_line_errors():
        check(arguments("check"))


if __name__ == "__main__":
    main()
