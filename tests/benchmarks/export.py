"""python -m tests.benchmarks.export: exported files against timm's eager mobilenetv1_100, 224 px, one image.

Each has its own process, since memory that one leaves in the allocator changes another's time; they take turns, in
blocks of calls. The weights are random, which does not change the time. int8 is calibrated on random images.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import timm
import torch

from backbones.mobilenet_v1 import MobileNetV1, fold_norms
from tasks.classification.model import Classifier
from tasks.export.formats import FORMATS
from tasks.export.graph import Graph, Job
from tests.benchmarks.timing import machine

SIDE, CLASSES, BLOCK = 224, 1000, 20
PEERS = ("timm eager", "timm eager, inference_mode", "timm eager, channels_last, inference_mode")
call: Callable[[], object]
TARGETS = {"none": 0.27, "int8": 0.10}


def prepare(name: str, path: Path | None, threads: int) -> None:
    """Loads what this process is to measure: a file, or timm's network, which gets a normalised image."""
    global call
    torch.set_num_threads(threads)
    pixels = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
    if path:
        runner = FORMATS[name.split()[0]].module().Runner(path, threads)
        call = lambda: runner(pixels)  # noqa: E731
        return
    model = timm.create_model("mobilenetv1_100").eval()
    image = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()
    if "channels_last" in name:
        model, image = model.to(memory_format=torch.channels_last), image.to(memory_format=torch.channels_last)
    call = lambda: model(image)  # noqa: E731
    if "inference_mode" in name:
        call = torch.inference_mode()(call)


def block() -> list[float]:
    times = []
    for i in range(1 + BLOCK):
        start = time.perf_counter()
        call()
        if i:
            times.append(time.perf_counter() - start)
    return times


def exports(folder: Path) -> dict[str, Path]:
    """A float and an int8 file of each format that has int8."""
    torch.manual_seed(0)
    graph = Graph(fold_norms(Classifier(MobileNetV1(1.0), CLASSES)), "uint8_nhwc", with_nms=True)
    example = graph.example(1, SIDE)
    ranges = np.concatenate([graph.example(1, SIDE).numpy() for _ in range(8)])
    found = {}
    for name, form in FORMATS.items():
        for quantize in ("none", "int8") if form.int8 else ():  # safetensors are run by PyTorch
            path = folder / f"{quantize}{form.suffix}"
            inputs = ranges if quantize == "int8" else np.empty(0)
            form.module().write(Job(graph, example, ["probabilities"], path, inputs, {}))
            found[f"{name} {quantize}"] = path
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        with torch.inference_mode():
            files = exports(Path(folder))
        pools = {
            name: stack.enter_context(
                ProcessPoolExecutor(1, context, initializer=prepare, initargs=(name, path, arguments.threads))
            )
            for name, path in (dict.fromkeys(PEERS) | files).items()
        }
        times: dict[str, list[float]] = {name: [] for name in pools}
        for i in range(1 + arguments.rounds):
            for name, pool in pools.items():
                found = pool.submit(block).result()
                times[name] += found if i else []
        sizes = {name: path.stat().st_size / 1e6 for name, path in files.items()}
    medians = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    print(f"MobileNetV1 alpha 1, {SIDE} px, batch 1; {machine()}")
    for name, value in medians.items():
        p95 = float(np.percentile(times[name], 95)) * 1e3
        size = f"{sizes[name]:6.2f} MB" if name in sizes else ""
        ratios = " and ".join(f"{value / medians[peer]:.3f}" for peer in PEERS[:2])
        print(f"{name:42}{value:7.2f} ms  p95 {p95:6.2f}  {ratios} of timm's  {size}")
    for quantize, target in TARGETS.items():
        best = min((value, name) for name, value in medians.items() if name.endswith(quantize))
        ratios = " and ".join(f"{best[0] / medians[peer]:.3f} of {peer}" for peer in PEERS[:2])
        print(f"best {quantize}: {best[1]}, {ratios} (wanted {target} of the first)")


if __name__ == "__main__":
    main()
