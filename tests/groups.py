"""Which tests share a process, and which start first.

pytest-xdist's own groups do nothing under pytest 9.2 (pytest-xdist issue 1386): each process made every
fixture of a file.
"""

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
# By duration, longest first: a long one at the end would keep one process busy and the others idle.
LONG = (
    "tests/tasks/engine/test_jobs.py",
    "tests/tasks/web",
    "tests/tasks/multitask",
    "tests/tasks/export/test_export.py",
    "tests/test_docs.py",
    "tests/tasks/engine/test_stops.py",
    "tests/tasks/classification/test_run.py",
    "tests/tasks/engine/test_run.py",
    "tests/chaos/test_chaos.py",
    "tests/tasks/detection/test_deployed.py",
    "tests/tasks/detection/test_detectors.py",
)


def group(nodeid: str) -> str:
    """What runs in one process, to make its fixtures once: a file, or a folder with a conftest.py of its own."""
    file = Path(nodeid.partition("::")[0])
    folder = file.parent
    return str(folder if folder != Path("tests") and (ROOT / folder / "conftest.py").exists() else file)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(group(item.nodeid), len(LONG)))


@pytest.hookimpl(optionalhook=True)  # the hook exists only where xdist is installed
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    config.option.loadscopereorder = False  # it would start with the groups of most tests, however short
    return ByGroup(config, log)
