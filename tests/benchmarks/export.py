"""python -m tests.benchmarks.export: exported files beside timm's eager mobilenetv1_100, 224 px, one picture.

All are run in turns in one process, in blocks of calls, for the runtimes' threads go on spinning for a moment. The
weights are random, which costs the same time. int8 takes its ranges from random pictures.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch

from backbones.mobilenet_v1 import MobileNetV1, fold_norms
from tasks.classification.model import Classifier
from tasks.exporting import FORMATS
from tasks.exporting.graph import Graph, Job
from tests.benchmarks.timing import as_it_comes, machine

SIDE, CLASSES, BLOCK, PAUSE = 224, 1000, 20, 0.2
TARGETS = {"none": 0.27, "int8": 0.10}


def peers(pixels: np.ndarray) -> dict[str, Callable[[], object]]:
    """timm's network as it comes, and in channels_last; both get a normalised picture."""
    picture = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()
    last = picture.to(memory_format=torch.channels_last)
    plain = timm.create_model("mobilenetv1_100").eval()
    fast = timm.create_model("mobilenetv1_100").eval().to(memory_format=torch.channels_last)
    return {"timm eager": lambda: plain(picture), "timm eager, channels_last": lambda: fast(last)}


def exports(folder: Path, threads: int) -> dict[str, tuple[Path, Callable]]:
    """Every format, float and int8: the file and what runs it."""
    torch.manual_seed(0)
    graph = Graph(fold_norms(Classifier(MobileNetV1(1.0), CLASSES)), "uint8_nhwc", whole=True)
    example = graph.example(1, SIDE)
    ranges = np.concatenate([graph.example(1, SIDE).numpy() for _ in range(8)])
    found = {}
    for name, form in FORMATS.items():
        for quantize in ("none", "int8") if form.int8 else ():  # safetensors are run by PyTorch
            path = folder / f"{quantize}{form.suffix}"
            inputs = ranges if quantize == "int8" else np.empty(0)
            form.module().write(Job(graph, example, ["probabilities"], path, inputs, {}))
            found[f"{name} {quantize}"] = path, form.module().Runner(path, threads)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    as_it_comes()
    pixels = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        files = exports(Path(folder), arguments.threads)
        calls = peers(pixels) | {name: lambda run=run: run(pixels) for name, (_, run) in files.items()}
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(arguments.rounds):
            for name, call in calls.items():
                time.sleep(PAUSE)
                call()
                for _ in range(BLOCK):
                    start = time.perf_counter()
                    call()
                    times[name].append(time.perf_counter() - start)
        sizes = {name: path.stat().st_size / 1e6 for name, (path, _) in files.items()}
    medians = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    print(f"MobileNetV1 alpha 1, {SIDE} px, batch 1; {machine()}")
    for name, value in medians.items():
        p95 = float(np.percentile(times[name], 95)) * 1e3
        size = f"{sizes[name]:6.2f} MB" if name in sizes else ""
        print(f"{name:28}{value:8.2f} ms  p95 {p95:7.2f}  {value / medians['timm eager']:6.3f} of timm eager  {size}")
    for quantize, target in TARGETS.items():
        best = min((value, name) for name, value in medians.items() if name.endswith(quantize))
        print(f"best {quantize}: {best[1]}, {best[0] / medians['timm eager']:.3f} (target {target})")


if __name__ == "__main__":
    main()
