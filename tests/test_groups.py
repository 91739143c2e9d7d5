"""How tests are distributed over processes."""

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.groups import LONG, ROOT, group

TESTS = """
import os
import pytest

@pytest.mark.parametrize("i", range(4))
def test_it(i):
    with open({log!r}, "a") as file:
        print(__file__, os.getpid(), file=file)
"""


def test_a_files_tests_run_in_one_process(tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    (tmp_path / "conftest.py").write_text("from tests.groups import *")
    for name in ("a", "b", "c"):
        (tmp_path / f"test_{name}.py").write_text(TESTS.format(log=str(tmp_path / "log")))
    command = [sys.executable, "-m", "pytest", "--numprocesses", "2", "-p", "no:cacheprovider", str(tmp_path)]
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    result = subprocess.run(
        command, cwd=tmp_path, env={**own, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout
    processes = defaultdict(set)
    for line in (tmp_path / "log").read_text().splitlines():
        file, process = line.split()
        processes[file].add(process)
    assert [len(found) for found in processes.values()] == [1, 1, 1]
    assert len(set.union(*processes.values())) == 2


def test_a_folder_with_fixtures_of_its_own_is_one_group() -> None:
    assert group("tests/tasks/web/test_page.py::test_x[a::b]") == "tests/tasks/web"
    assert group("tests/tasks/test_load.py::test_x") == "tests/tasks/test_load.py"
    assert group("tests/test_docs.py::test_x") == "tests/test_docs.py"
    assert all((ROOT / name).exists() for name in LONG)
