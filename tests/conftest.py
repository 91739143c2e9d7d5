"""Fixtures that several tests share."""

import importlib
import logging
import os
import random
import signal
import struct
import subprocess
import sys
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from hypothesis import HealthCheck, settings

from data.demo.dogs import write_dogs
from data.demo.faces import write_faces
from data.demo.scenes import write_scenes
from data.image_file import MAX_PIXELS, limit_pixels
from tasks.engine.config import load_config
from tasks.engine.options import locate
from tasks.engine.signals import REQUEUE, STOP, Stop
from tasks.engine.start import build_data
from tasks.engine.task import TaskModule
from tests.groups import ROOT, pytest_collection_modifyitems, pytest_xdist_make_scheduler  # noqa: F401  # hooks

os.environ["HF_HUB_OFFLINE"] = "1"  # backbone.pretrained=auto asks no server: photographs are trained on from scratch

# No deadline, as others may use the machine; and failures must be reproducible.
slow = [HealthCheck.too_slow]
settings.register_profile("shared", deadline=None, derandomize=True, suppress_health_check=slow)
settings.load_profile("shared")

SHARED = ROOT.parent / "shared"


THREADS = torch.get_num_threads()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    as_if_first()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    as_if_first()


def as_if_first() -> None:
    """Resets random seeds and the number of threads, which earlier tests or fixtures may have changed: two threads
    that wait for each other on busy cores take many times as long as one.
    """
    torch.set_num_threads(THREADS)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  # the global generator, which libraries use
    torch.manual_seed(0)


@pytest.fixture
def stoppable() -> Iterator[None]:
    """Installs the command's signal handlers, and restores the earlier ones afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    STOP.install()
    yield
    vars(STOP).update(vars(Stop()))
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets downloads contact a server, which a test has on loopback."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo set."""
    root = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(root, train=24, val=8, seed=0)
    return root


@pytest.fixture(scope="session")
def dogs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo of Stanford Dogs with its web set."""
    root = tmp_path_factory.mktemp("data") / "dogs"
    write_dogs(root, train=3, test=2, web=4, copies=3)
    return root


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo of faces: 20 people, of whom 4 are held out, 3 images each."""
    root = tmp_path_factory.mktemp("data") / "faces"
    write_faces(root, people=20, images=3)
    return root


def untrained(folder: Path, *overrides: str) -> Path:
    """A run folder with an untrained network."""
    config = load_config(overrides)
    torch.manual_seed(0)
    module = locate(config, "task")(config, build_data(config).labels)
    content: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(content, folder / "checkpoints" / "best.ckpt")
    return folder


def shared(path: str) -> Path:
    """A file or folder of real data or weights, which lie beside the checkout; skips the test without it."""
    if not (SHARED / path).exists():
        pytest.skip(f"needs ../shared/{path}, which this machine does not have")
    return SHARED / path


def make_irregular(path: Path, kind: str) -> None:
    """Makes what is not a regular file: a pipe that sends nothing, an endless device, or a folder."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        assert kind == "folder"
        path.mkdir()


def png_header(width: int, height: int) -> bytes:
    """A PNG that ends where its pixels should begin."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return start + struct.pack(">I", 1 << 20) + b"IDAT"


@contextmanager
def as_main(module: str, arguments: Sequence[str], folder: Path, columns: int = 200) -> Iterator[None]:
    """Isolates a command in this process: arguments, folder, environment, handlers, random numbers."""
    numbers = (signal.SIGINT, signal.SIGTERM, REQUEUE)
    environment, logger, threads = os.environ.copy(), logging.getLogger(), torch.get_num_threads()
    handlers, level = logger.handlers[:], logger.level
    heed = [signal.getsignal(number) for number in numbers]
    numpys = np.random.get_state()  # noqa: NPY002  # the global generator, which Lightning seeds
    states, hydra = (random.getstate(), numpys), Singleton.get_state()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        patch.setattr(sys, "argv", [f"tasks/{module}.py", *arguments])
        patch.chdir(folder)
        patch.setenv("COLUMNS", str(columns))
        patch.setattr(warnings, "showwarning", lambda *what: sys.stderr.write(warnings.formatwarning(*what[:4])))
        GlobalHydra.instance().clear()
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(environment)
            logger.handlers[:], logger.level = handlers, level
            for number, handler in zip(numbers, heed, strict=True):
                signal.signal(number, handler)
            vars(STOP).update(vars(Stop()))  # as at the start of a program
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            Singleton.set_state(hydra)
            torch.set_num_threads(threads)
            limit_pixels(MAX_PIXELS)


def command(
    module: str, *arguments: object, folder: Path = ROOT, columns: int = 200
) -> subprocess.CompletedProcess[str]:
    """Runs python -m tasks.<module> in this process, which has imported what the command needs."""
    given, status = [*map(str, arguments)], 0
    path = f"tasks.{module}.__main__" if (ROOT / "tasks" / module).is_dir() else f"tasks.{module}"
    with (
        redirect_stdout(StringIO()) as stdout,
        redirect_stderr(StringIO()) as stderr,
        as_main(module, given, folder, columns),
    ):
        try:
            importlib.import_module(path).main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception:
            traceback.print_exc()
            status = 1
    return subprocess.CompletedProcess([module, *given], status, stdout.getvalue(), stderr.getvalue())


def spawn(module: str, *arguments: object, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Runs python -m tasks.<module> in a process of its own: where several processes, signals, imports or the
    environment matter.
    """
    return subprocess.run(
        [sys.executable, "-m", f"tasks.{module}", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def start_run(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """A run in a process group of its own, as a shell or a scheduler starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "tasks.run", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # tests that were started in the background inherit an ignored SIGINT
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def kill_ray_worker(title: bytes, mark: str) -> bool:
    """Kills a Ray worker whose process title starts with `title` and whose environment contains `mark`; False if there
    is none at this moment.
    """
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile, or is someone else's
            if (place / "cmdline").read_bytes().startswith(title) and mark.encode() in (place / "environ").read_bytes():
                os.kill(int(place.name), signal.SIGKILL)
                return True
    return False


def at_steps(steps: set[int], act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Acts at the beginning of given steps of a training in this process, once at each."""
    plain = TaskModule.training_step

    def step(self: TaskModule, batch: Any, index: int) -> Any:
        if self.global_step in steps:
            steps.remove(self.global_step)
            act()
        return plain(self, batch, index)

    monkeypatch.setattr(TaskModule, "training_step", step)


def stop_at(steps: set[int], number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends this process the signal `number` at the given steps."""
    at_steps(steps, lambda: os.kill(os.getpid(), number), monkeypatch)


def wait_until(condition: Callable[[], object], process: subprocess.Popen[Any], seconds: float = 180) -> None:
    """Waits for a condition while a process runs; fails, and kills the process, if it ends or takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"waited in vain for {process.args!r}, which ended with {process.poll()}")
        time.sleep(0.01)


# a run that takes seconds
TINY = (
    *("backbone.alpha=0.25", "task.resolution=96", "data.batch_size=8", "data.workers=0"),
    *("data.train=24", "data.val=8", "trainer.log_every=1", "trainer.validate_every=1"),
)
# untrained networks to export
SHALLOW = "backbone.variant=shallow"  # export time grows with the number of layers
SMALL = ("backbone.alpha=0.25", SHALLOW, "task.resolution=32", "data.batch_size=8", "data.workers=0")
FEW = (*SMALL, "data.people=20", "data.images_per_identity=3")
EARTH = (
    *("data.train=60", "data.val=12", "data.gallery=12", "data.size=32"),
    *("data.generated=true", "data.min_photos=2", *SMALL),
)
