"""python -m tests.chaos.killed: kills commands at seeded moments; their files stay whole, and the result the same.

A command runs in a forked process, which ends itself by SIGKILL right before its n-th change of files: opening one for
writing, a flush, rename or link, making or removing one or a folder. It counts changes, not seconds, so that a seed
means the same on every machine. Then every file that the command has left under its final name is read, and the command
is started again, as a user would, until it finishes; the result must equal that of an undisturbed one.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # noqa: F401  # this and the next are imported before the first fork, so that no fork has to
import onnxscript  # noqa: F401  # as above
import torch
import torch.onnx  # as above
import yaml
from PIL import Image

from tasks import page, run
from tasks.engine import train  # noqa: F401  # before the first fork, so that no fork has to
from tasks.engine.config import load_config
from tasks.engine.training_checkpoints import is_intact
from tasks.export import __main__ as export
from tasks.gallery import __main__ as gallery
from tasks.gallery.index import read_index
from tasks.prepare import prepare
from tests.chaos.server import archive, serving

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir")
TINY = ("backbone.alpha=0.05", "backbone.variant=shallow", "task.resolution=32", "data.batch_size=8", "data.workers=0")
DATA = (
    "data.train=48",
    "data.max_photos=[30,10,5]",
    "data.val=6",
    "data.gallery=20",
    "data.size=32",
    "data.generated=true",
    "data.min_photos=1",
)
# messages of a command that had been killed after its work, during the final cleanup
DONE = {"gallery add": "are in the gallery", "gallery remove": "has no photo of that name"}
TRAINING = ("trainer.max_epochs=2", "trainer.validate_every=1", "trainer.precision=32", "trainer.save_minutes=1e-6")


@dataclass
class Job:
    """A command: `start` runs it in a folder that is empty or that a killed run has left; `result` is what must equal
    that of an undisturbed run.
    """

    start: Callable[[Path], object]
    result: Callable[[Path], Any]
    share: float = 1.0  # of its events: kills are drawn from this first part


def events_until(work: Callable[[], object], folder: Path, last: int | None) -> int | None:
    """Does the work in a process that ends itself before the `last` change of a file in `folder`, if there are as many.

    Returns:
        The number of changes, or None if it was killed.

    Raises:
        AssertionError: it failed, with its output.
    """
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(receiving)
        status = 1
        try:
            count = watch(folder, last)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
                try:
                    work()
                except BaseException:
                    os.write(sending, (traceback.format_exc() + said.getvalue())[-3000:].encode())
                    raise
            os.write(sending, str(next(count) - 1).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(sending)
    with os.fdopen(receiving, "rb") as pipe:
        told = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    if status:
        raise AssertionError(told)
    return int(told)


def watch(folder: Path, last: int | None) -> "itertools.count[int]":
    """Counts, from 1 on, how often this process changes a file below `folder`, and ends it before the `last` time."""
    owner, count, inside = os.getpid(), itertools.count(1), str(folder)

    def note() -> None:
        if os.getpid() == owner and next(count) == last:
            os.kill(owner, signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        changing = event in CHANGES or (event == "open" and arguments[2] & WRITING)
        if changing and str(arguments[0]).startswith(inside):
            note()

    flush = os.fsync

    def fsync(descriptor: int) -> None:
        note()
        flush(descriptor)

    sys.addaudithook(hook)
    os.fsync = fsync  # type: ignore[assignment]  # in a process that ends with its command
    return count


READERS: dict[str, Callable[[Path], object]] = {
    ".json": lambda path: json.loads(path.read_text()),
    ".yaml": lambda path: yaml.safe_load(path.read_text())["task"],
    ".npy": lambda path: np.load(path),
    ".faiss": lambda path: read_index(path),
    ".png": lambda path: Image.open(path).load(),
    ".jpg": lambda path: Image.open(path).load(),
    ".onnx": lambda path: onnx.checker.check_model(onnx.load(path)),
    ".html": lambda path: sure(path.read_text().rstrip().endswith("</html>"), path),
    ".ckpt": lambda path: sure(is_intact(path), path),
    ".py": lambda path: compile(path.read_text(), path, "exec"),
    ".csv": lambda path: sure(path.read_text().endswith("\n"), path),
    ".txt": lambda path: sure(path.read_text().endswith("\n"), path),
}


def sure(whole: bool, path: Path) -> None:
    assert whole, path


def check_whole(folder: Path) -> int:
    """Reads every visible file of a known kind, and returns how many."""
    count = 0
    for path in visible(folder):
        if path.suffix in READERS:
            READERS[path.suffix](path)
            count += 1
    return count


def visible(folder: Path) -> list[Path]:
    """The files that are neither hidden nor in a hidden folder, as the unfinished files of a killed process are."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def contents(folder: Path, left_out: Sequence[str] = ()) -> dict[str, bytes]:
    found = (path for path in visible(folder) if not path.name.startswith(tuple(left_out)))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def trained(folder: Path) -> Any:
    """What must not depend on the kills: all of the training's state, and the metrics."""
    found: list[Any] = []
    for name in ("last", "best"):
        content = torch.load(folder / "geo" / "run" / "checkpoints" / f"{name}.ckpt", weights_only=True)
        parts = ("state_dict", "averaging_state", "optimizer_states", "lr_schedulers", "global_step")
        found += [flat({part: content[part] for part in parts})]
    report = json.loads((folder / "geo" / "run" / "metrics.json").read_text())
    return [*found, {part: report[part] for part in ("state", "metrics", "history", "epoch", "step")}]


def flat(value: Any) -> Any:
    """Tensors as bytes, so that == compares them to the last bit."""
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: flat(inner) for key, inner in value.items()}
    return [flat(inner) for inner in value] if isinstance(value, list) else value


def jobs(root: Path, address: str) -> dict[str, Job]:
    """Each command that writes; later ones use what the undisturbed earlier ones have made in `root`."""
    model, photos = root / "undisturbed" / "training" / "geo" / "run", root / "earth"
    built = root / "undisturbed" / "gallery build"

    def training(folder: Path) -> None:
        begun = folder / "geo" / "run"
        where = ("data=demo_earth", f"data.root={photos}", f"paths.runs={folder}", "name=run", "logger.images=0")
        anew = ("task=geo", *TINY, *DATA, *TRAINING, *where)
        run.execute([f"resume={begun}"] if (begun / "config.yaml").exists() else [*anew])

    def ask(folder: Path, mode: str, source: str) -> None:
        settings = ("shard_size=4", "batch_size=4", f"source={photos / source}", f"folder={folder}")
        gallery.run(load_config([f"ckpt={model}", f"mode={mode}", *settings], "gallery"))

    def change(folder: Path, mode: str, source: str) -> None:
        if not (folder / "gallery.json").exists():  # which is copied last
            shutil.copytree(built, folder, ignore=lambda *_: ["gallery.json"], dirs_exist_ok=True)
            shutil.copy(built / "gallery.json", folder)
        ask(folder, mode, source)

    def exporting(folder: Path) -> None:
        export.execute([f"ckpt={model}", f"output={folder}", "max_drop=100", "images=200", "overwrite=true"])

    def paging(folder: Path) -> None:
        exports = root / "undisturbed" / "export"
        page.execute([f"exports={exports}", f"output={folder / 'page.html'}", "runtime=link"])

    def preparing(folder: Path) -> None:
        os.environ["HF_HUB_OFFLINE"] = "0"  # in this process, which reads from the server above
        source = {"terms": "", "files": [{"url": f"{address}/{name}", "digest": d} for name, d in archive().digests]}
        prepare("archive", source, folder, keep=False, pause=0.01)

    return {
        "training": Job(training, trained, 0.3),
        "gallery build": Job(lambda folder: ask(folder, "build", "gallery.csv"), contents),
        "gallery add": Job(lambda folder: change(folder, "add", "val.csv"), contents),
        "gallery remove": Job(lambda folder: change(folder, "remove", "gallery/*1.jpg"), contents),
        "export": Job(exporting, lambda folder: contents(folder, ("model.json", "README.md"))),
        "page": Job(paging, contents),
        "prepare": Job(preparing, contents),
    }


def chaos(kills: int, seed: int, root: Path, say: Callable[[str], object] = print) -> dict[str, int]:
    """Kills each command in turn; returns the number of kills of each.

    Raises:
        AssertionError: a file was not whole, a command did not go on, or its result differed.
    """
    counts: dict[str, int] = {}
    with serving() as address:
        known = jobs(root, address)
        for number, (name, job) in enumerate(known.items()):
            wanted = kills // len(known) + (number < kills % len(known))
            undisturbed = root / "undisturbed" / name
            undisturbed.mkdir(parents=True)
            events = events_until(partial(job.start, undisturbed), undisturbed, None)
            assert events
            assert check_whole(undisturbed)
            counts[name] = disturb(name, job, root, wanted, events, random.Random(f"{seed} {name}"))
            say(f"{name}: {counts[name]} kills at moments of {events}, everything whole, the same result")
    return counts


def disturb(name: str, job: Job, root: Path, wanted: int, events: int, chance: random.Random) -> int:
    """Kills a command `wanted` times in all, and lets it finish in between, in as many folders as that takes."""
    expected, killed = job.result(root / "undisturbed" / name), 0
    for life in itertools.count():
        folder = root / f"{name} {life}"
        folder.mkdir()
        finished = False
        while not finished:
            last = chance.randint(1, max(1, int(events * job.share))) if killed < wanted else None
            try:
                made = events_until(partial(job.start, folder), folder, last)
            except AssertionError as error:
                if not (name in DONE and DONE[name] in str(error)):
                    raise
                made = 0
            finished = made is not None
            killed += not finished
            check_whole(folder)
        assert job.result(folder) == expected, f"{name}: another result in {folder}"
        shutil.rmtree(folder)
        if killed >= wanted:
            return killed
    raise AssertionError


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        counts = chaos(given.kills, given.seed, Path(folder))
    print(f"{sum(counts.values())} kills")


if __name__ == "__main__":
    main()
