"""python -m tasks.check data.root=<folder>: reports what a data set contains, its faults, and recommended settings."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backbones.errors import UserError
from data.layouts import Ambiguous, Layout
from tasks.engine.config import arguments, load_config, one_line_errors
from tasks.engine.layout import recognized
from tasks.engine.parts import JOINT, is_joint

if TYPE_CHECKING:
    from tasks.inspect.survey import Survey

TASKS = ("detection", "classification", "geo", "faces", "embedding")  # the order in which a folder is tried
CHOSEN = ("task=", "data=", "experiment=")  # overrides that say what the data is


def with_task(overrides: Sequence[str]) -> tuple[list[str], Layout | None]:
    """The overrides, with the task and data option recognised from their data.root, and its layout.

    Raises:
        UserError: it is not data of any task.
    """
    if any(o.startswith(CHOSEN) for o in overrides) or not any(o.startswith("data.root=") for o in overrides):
        return recognized(overrides)
    first = None
    for task in TASKS:
        try:
            return recognized([f"task={task}", *overrides])
        except Ambiguous:
            raise
        except UserError as error:
            first = first or error
    assert first
    raise first


def check(overrides: Sequence[str]) -> "Survey":
    """Prints the report on a data set and writes its page.

    Raises:
        UserError: the data cannot be read or are those of several tasks, or the page cannot be written.
    """
    if is_joint(overrides):
        raise UserError(f"task={JOINT}: check the data of its tasks one at a time")
    given, (overrides, layout) = overrides, with_task(overrides)
    config = load_config(overrides, "check")
    output = Path(config["output"])
    from backbones.console import Console
    from tasks.engine.start import build_data, setup
    from tasks.inspect.page import write_page
    from tasks.inspect.report import show
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
    Console().print(f"see {output}", soft_wrap=True)
    if layout:
        settings = [f"task={config['groups']['task']}", *(o for o in given if o.startswith("data."))]
        Console().print(f"train with: python -m tasks.run {shlex.join(settings)}", soft_wrap=True)
    return found


def main() -> None:
    with one_line_errors():
        check(arguments("check"))


if __name__ == "__main__":
    main()
