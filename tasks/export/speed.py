"""Measures the speed of networks and exported files, each in its own process with its own memory and threads."""

import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.box import SIMPLE_HEAD
from rich.table import Table

from backbones.console import Console
from backbones.errors import UserError, first_line
from tasks.engine.checkpoint import find_checkpoint, load_checkpoint
from tasks.engine.hardware import keep_freed_memory
from tasks.engine.task import restore
from tasks.export.formats import FORMATS
from tasks.export.graph import Graph
from tasks.export.package import read_spec, short_names

THREADS, BATCH = (1, 2), 16
WARMUP = 3
STATM = Path("/proc/self/statm")


@dataclass(frozen=True)
class Contender:
    """Something to measure: a checkpoint run in PyTorch, eager or compiled, or an export's folder."""

    name: str
    path: str
    kind: str  # eager | compiled | the name of a format


@dataclass(frozen=True)
class Measurement:
    name: str
    threads: int
    median_ms: float  # of one image
    p95_ms: float
    images_per_second: float  # in batches of 16
    memory_mb: float  # added by loading and running
    file_mb: float
    share_of_peak: float  # multiply-adds per second in batches of 16, as a share of `peak_rate`


def contenders(ckpt: str | None, exports: Mapping[Path, dict[str, Any]], compiled: bool) -> list[Contender]:
    """What there is to measure; `exports` are folders, with the content of their model.json.

    Raises:
        UserError: one is absent or damaged, or holds several networks, which do not run as one.
    """
    kinds = ("eager", "compiled") if compiled else ("eager",)
    rows = [Contender(f"PyTorch {kind}", str(find_checkpoint(ckpt)), kind) for kind in kinds] if ckpt else []
    if ckpt and "parts" in load_checkpoint(ckpt)["suite"].get("config", {}):
        raise several(ckpt)
    for (path, spec), name in zip(exports.items(), short_names(exports), strict=True):
        if spec["parts"] and spec["format"] == "torch":
            raise several(path)
        rows.append(Contender(name, str(path), spec["format"]))
    return rows


def several(path: object) -> UserError:
    return UserError(f"{path} is a multi-task run: bench an export of one of its tasks (part=<task>)")


def measure_all(found: Sequence[Contender], seconds: float) -> list[Measurement]:
    """A row for each contender and number of threads.

    Raises:
        UserError: a file cannot be run.
    """
    context = multiprocessing.get_context("spawn")
    rows = []
    for contender in found:
        if contender.kind in FORMATS:
            FORMATS[contender.kind].check_runtime(Path(contender.path))  # reports it at once
        for threads in THREADS:
            with ProcessPoolExecutor(1, context) as pool:
                try:
                    rows.append(pool.submit(measure, contender, threads, seconds).result())
                except UserError:
                    raise
                except Exception as error:  # any kind: from a runtime, a compiler or a process that died
                    hint = "; omit it with compile=false" if contender.kind == "compiled" else ""
                    raise UserError(
                        f"{contender.name} ({contender.path}) cannot be run: {first_line(error)}{hint}"
                    ) from error
    return rows


def measure(contender: Contender, threads: int, seconds: float) -> Measurement:
    torch.set_num_threads(threads)
    keep_freed_memory()
    peak = peak_rate()
    before = resident()
    call, pixels, madds, megabytes = load(contender, threads)
    single = times(lambda: call(pixels[:1]), seconds)
    full = times(lambda: call(pixels), seconds)
    memory = peak_memory() - before
    median = statistics.median(single)
    p95 = float(np.percentile(single, 95))
    rate = BATCH / statistics.median(full)
    share = madds * rate / peak
    return Measurement(contender.name, threads, median * 1e3, p95 * 1e3, rate, memory, megabytes, share)


def load(contender: Contender, threads: int) -> tuple[Callable[[np.ndarray], object], np.ndarray, float, float]:
    """A function that runs it, images for it, its multiply-adds, and its size in MB."""
    path = Path(contender.path)
    if contender.kind in FORMATS:
        spec = read_spec(path)
        side, as_bytes = spec["input"]["size"], spec["input"]["layout"] == "uint8_nhwc"
        shape = (BATCH, side, side, 3) if as_bytes else (BATCH, 3, side, side)
        pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8).astype(np.uint8 if as_bytes else np.float32)
        file_format, file = FORMATS[contender.kind], path / spec["file"]
        runner = file_format.module().Runner if file_format.name == "torch" else file_format.runner
        return runner(file, threads), pixels, spec["cost"]["madds_m"] * 1e6, file.stat().st_size / 1e6
    checkpoint = load_checkpoint(path)
    madds = restore(checkpoint).model.cost(checkpoint["suite"]["resolution"]).madds
    module = restore(checkpoint)
    graph: Callable = Graph(module.model, "uint8_nhwc", with_nms=True)
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, module.resolution, module.resolution, 3), np.uint8)
    run = torch.compile(graph) if contender.kind == "compiled" else graph

    def call(images: np.ndarray) -> object:
        with torch.inference_mode():
            return run(torch.from_numpy(images))

    return call, pixels, madds, path.stat().st_size / 1e6


def times(call: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call, at least five, after WARMUP calls."""
    for _ in range(WARMUP):
        call()
    found: list[float] = []
    while len(found) < 5 or sum(found) < seconds:
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return found


@torch.inference_mode()
def peak_rate() -> float:
    """Multiply-adds per second of MobileNet's most frequent layer, a 1 x 1 convolution of 512 channels, in float32 and
    large batches; the best of several runs. (On AMD processors, PyTorch's matrix product reaches less than half of it.)
    """
    batch, channels, side = 16, 512, 14
    x = torch.rand(batch, channels, side, side).to(memory_format=torch.channels_last)
    weight = torch.rand(channels, channels, 1, 1)
    return batch * side**2 * channels**2 / min(times(lambda: F.conv2d(x, weight), 0.3))


def resident() -> float:
    """Resident memory of this process, in MB; on systems without /proc, its peak so far."""
    if not STATM.exists():
        return peak_memory()
    pages = int(STATM.read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def peak_memory() -> float:
    """Peak memory of this process, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, else kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def table(rows: list[Measurement]) -> None:
    headers = ("", "threads", "ms", "p95", f"images/s\n(of {BATCH})", "memory\nMB", "file\nMB", "% of\npeak")
    shown = Table(*headers, box=SIMPLE_HEAD)
    shown.columns[0].overflow = "fold"
    for column in shown.columns[1:]:
        column.justify = "right"
    for row in rows:
        figures = (row.median_ms, row.p95_ms, row.images_per_second, row.memory_mb, row.file_mb)
        words = [f"{v:.2f}" if v < 100 else f"{v:.0f}" for v in figures]
        shown.add_row(row.name, str(row.threads), *words, f"{100 * row.share_of_peak:.0f}")
    Console().print(shown)
