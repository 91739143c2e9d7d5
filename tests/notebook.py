"""python -m tests.notebook [--fast]: runs docs/tour.ipynb from top to bottom and stores the outputs in it; --fast
trains for a few steps and stores nothing.

The cells run without Jupyter, in one process: a line `!python -m tasks.<command> ...` as a command, others as Python.
"""

import argparse
import ast
import base64
import io
import json
import os
import runpy
import shlex
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "docs" / "tour.ipynb"
WIDEST = 800  # pixels of a stored image
FAST = {
    "run": "backbone.alpha=0.25 task.resolution=96 data=demo_scenes data.train=24 data.val=8 data.batch_size=8 "
    "data.workers=0 trainer.minutes=null trainer.max_epochs=1 trainer.limit_train_batches=2 trainer.precision=32",
    "cost": "backbone.alpha=0.25 task.resolution=96",
    "export": "calibration=8 max_drop=100",
}
SLOW = "tasks.bench"  # starts six processes; --fast leaves it to its own tests


def run_command(line: str, fast: bool) -> None:
    """Runs `python -m tasks.<command> ...` in this process; SystemExit where it fails."""
    python, option, module, *arguments = shlex.split(line)
    assert (python, option) == ("python", "-m"), line
    if fast and module == SLOW:
        return
    if fast:
        more = FAST.get(module.removeprefix("tasks."), "").split()
        changed = {setting.partition("=")[0] for setting in more}
        arguments = [a for a in arguments if a.partition("=")[0] not in changed] + more
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=False)
    except SystemExit as end:
        if end.code:
            raise


def run_cell(source: str, names: dict[str, Any], fast: bool) -> Any:
    """Runs a cell, and returns the value of its last line where it is an expression."""
    if source.startswith("!"):
        for line in source.splitlines()[: 1 if fast else None]:  # the others are similar
            run_command(line.removeprefix("!"), fast)
        return None
    *body, last = ast.parse(source).body
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    exec(compile(ast.Module([last], []), "cell", "exec"), names)
    return None


def outputs(said: str, value: Any) -> list[dict[str, Any]]:
    """A cell's outputs in the notebook format."""
    found: list[dict[str, Any]] = []
    if said.strip():
        text = "".join(f"{line.rstrip()}\n" for line in said.strip("\n").splitlines())
        found.append({"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)})
    data: dict[str, Any] = {}
    if isinstance(value, Image.Image):
        small, file = value.convert("RGB"), io.BytesIO()
        small.thumbnail((WIDEST, WIDEST))
        small.save(file, "JPEG", quality=80)
        data = {"image/jpeg": base64.b64encode(file.getvalue()).decode()}
    elif value is not None:
        data = {"text/plain": repr(value).splitlines(keepends=True)}
    if data:
        found.append({"output_type": "display_data", "data": data, "metadata": {}})
    return found


def execute(notebook: dict[str, Any], fast: bool) -> None:
    """Runs all cells of code, each with the variables of those before, and stores their outputs in `notebook`."""
    names: dict[str, Any] = {}
    for number, cell in enumerate((c for c in notebook["cells"] if c["cell_type"] == "code"), start=1):
        said, source, start = io.StringIO(), "".join(cell["source"]), time.monotonic()
        try:
            with redirect_stdout(said), redirect_stderr(said):
                value = run_cell(source, names, fast)
        except (Exception, SystemExit):
            print(said.getvalue(), file=sys.stderr)
            raise
        words = said.getvalue().replace(f"{Path.cwd()}/", "")  # this path differs between machines
        cell["outputs"], cell["execution_count"] = outputs(words, value), number
        print(f"{time.monotonic() - start:6.1f} s  {source.splitlines()[0][:90]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fast", action="store_true", help="train for a few steps, and keep no outputs")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "tour", help="an empty one to run in")
    given = parser.parse_args()
    notebook = json.loads(NOTEBOOK.read_text())
    given.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(given.folder)
    os.environ["COLUMNS"] = "100"
    start = time.monotonic()
    execute(notebook, given.fast)
    print(f"{time.monotonic() - start:.0f} s in all")
    if not given.fast:
        NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
