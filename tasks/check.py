"""python -m tasks.check data.root=<folder>: reports what a data set contains, its faults, and recommended settings."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backbones.errors import UserError
from data.celeba import celeba_files
from data.layouts import Ambiguous, Layout, Unknown
from data.layouts.images import Guess, Unlabelled
from tasks.engine.config import arguments, load_config, one_line_errors
from tasks.engine.layout import with_recognized_layout
from tasks.engine.multitask_config import JOINT, is_joint

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
        return with_recognized_layout(overrides)
    folder = Path(next(o for o in reversed(overrides) if o.startswith("data.root=")).partition("=")[2].strip("'\""))
    guess, errors = None, []
    for task in ("faces",) if celeba_files(folder).complete else TASKS:  # CelebA has tables of boxes, too
        try:
            given, layout = with_recognized_layout([f"task={task}", *overrides])
            root = Path(load_config(given, "check")["data"]["root"])  # fails for a setting that this task lacks
        except Ambiguous:
            raise
        except UserError as error:
            errors += [] if guess else [error]  # later tasks complain that a table does not have their columns
            continue
        if layout and not fits_any_images(layout, root):
            if not isinstance(layout, Guess) or any(o.startswith("data.target=") for o in overrides):
                return given, layout
            guess = guess or (given, layout)
    # the most telling error: not that a layout is unknown, if anything else is wrong
    cause = next((e for e in errors if not isinstance(e, Unknown | Unlabelled)), errors[0])
    if guess and isinstance(cause, Unknown):
        return guess
    if isinstance(cause, Unknown):
        raise UserError(
            f"{cause.seen}. Boxes are read from COCO JSON, Pascal VOC .xml, YOLO .txt or a CSV file with a row per "
            "box, classes from a folder for each class; for other data name the task with task="
        )
    raise cause


def fits_any_images(layout: Layout, root: Path) -> bool:
    """Whether a layout was recognised from images alone: those for a teacher, or photos that have no position."""
    if layout.option == "face_folder":
        return True
    folder = root / str(layout.settings.get("train"))
    if layout.option != "places" or not folder.is_dir():
        return False
    from data.geo.positions import has_positions

    return not has_positions(folder)


def check(overrides: Sequence[str]) -> "Survey":
    """Prints the report on a data set and writes its page.

    Raises:
        UserError: the data cannot be read or are those of several tasks, or the page cannot be written.
    """
    if is_joint(overrides):
        raise UserError(f"task={JOINT}: check the data of its tasks one at a time")
    given, (overrides, layout) = overrides, with_task(overrides)
    config = load_config(overrides, "check")
    output, root = Path(config["output"]), Path(config["data"]["root"])
    if not root.is_dir() and not any(o.startswith("data.root=") for o in given):
        raise UserError(
            f"there is no folder {root}: give data.root=<folder>; a demo's data are written by its training"
        )
    from backbones.console import Console
    from tasks.engine.start import build_data, setup
    from tasks.inspect.contents import reader_warnings
    from tasks.inspect.page import write_page
    from tasks.inspect.report import show
    from tasks.inspect.survey import survey

    setup()
    data = build_data(config, generate_demo=False)
    chosen = f"task={config['groups']['task']} data={config['groups']['data']}"
    description = f"{layout.description} ({chosen})" if layout else chosen
    found = survey(data, config)
    show(found, data.root, description)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_page(found, data.root, description, output)
    except OSError as error:
        raise UserError(f"output={output} cannot be written: {error.strerror}") from error
    Console().print(f"see {output}", soft_wrap=True)
    with reader_warnings():  # which the report has
        try:
            data.check()
        except UserError as error:
            Console().print(f"training would fail: {error}", soft_wrap=True)
            return found
    if layout:
        settings = [f"task={config['groups']['task']}", *(o for o in given if o.startswith("data."))]
        Console().print(f"train with: python -m tasks.run {shlex.join(settings)}", soft_wrap=True)
    return found


def main() -> None:
    with one_line_errors():
        check(arguments("check"))


if __name__ == "__main__":
    main()
