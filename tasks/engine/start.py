"""How commands start: logging, the process set up for speed, the data. Lightning is not imported, and torch only if
something is computed.
"""

import logging
import warnings
from typing import TYPE_CHECKING, Any

from rich.logging import RichHandler

from backbones.console import Console
from backbones.errors import UserError
from tasks.engine.multitask_config import input_side, tasks_of, with_data
from tasks.engine.options import locate
from tasks.engine.processes import is_rank_zero
from tasks.engine.untrusted import below_root

if TYPE_CHECKING:
    from data.base import SuiteData

log = logging.getLogger(__name__)


def setup() -> None:
    """Logs through rich, and sets the process up for speed."""
    set_up_logging()
    from tasks.engine.hardware import keep_freed_memory, use_granted_cores

    use_granted_cores()
    keep_freed_memory()


def set_up_logging() -> None:
    """Logs our messages and all warnings through rich; a run's further processes, which have the same, only errors."""
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")  # Lightning 2.6's own call
    resumed = r"You're resuming from a checkpoint that ended before the epoch ended"
    warnings.filterwarnings("ignore", resumed)  # our loaders skip used batches, which Lightning cannot know
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
    level = logging.INFO if is_rank_zero() else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", handlers=[handler], force=True)
    for chatty in ("httpx2", "faiss.loader"):  # the Hub's client logs each request, FAISS each library it tries
        logging.getLogger(chatty).setLevel(logging.WARNING)


def new_data(config: dict[str, Any]) -> "SuiteData":
    """The data set of a configuration, not prepared: nothing of it is read or written."""
    from backbones.base import scaled_resolution

    resolution = scaled_resolution(input_side(config), config["backbone"]["rho"])
    settings = config["data"] | {"resolution": resolution} | locate(config, "task").data_settings(config)
    data: SuiteData = locate(config, "data")(**settings)
    return data


def build_data(config: dict[str, Any], generate_demo: bool = True) -> "SuiteData":
    """The data set of a configuration, prepared. A demo's is generated if it is absent; without `generate_demo`, it
    must exist, and nothing is written.
    """
    data = new_data(config)
    data.read_only = not generate_demo
    if generate_demo:
        data.prepare()
    else:
        data.find_root()
    return data


def saved_data(config: dict[str, Any], root: str | None, **changes: Any) -> "SuiteData":
    """The data set that a checkpoint's configuration names, for evaluation: read below `root`, or below the
    checkpoint's own data.root, which is logged. Nothing is generated, downloaded or read elsewhere because a checkpoint
    names it.

    Raises:
        UserError: it names files outside data.root, and no root is given.
    """
    if root is None:
        for task in tasks_of(config).values():
            log.info("reading data.root=%s, as the checkpoint says; root=<folder> reads another", task["data"]["root"])
    elif "parts" in config:
        raise UserError(
            f"root={root} applies to one task; evaluate a multi-task run with its data sets where they were, or its "
            "tasks one by one"
        )
    untaught = config | {"teacher": None}
    if "parts" in config:
        untaught["parts"] = {name: part | {"teacher": None} for name, part in config["parts"].items()}
    return build_data(with_data(untaught, lambda own: below_root(own, root) | changes), generate_demo=False)
