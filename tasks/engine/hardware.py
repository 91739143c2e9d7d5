"""Hardware detection and process tuning."""

import ctypes
import math
import os
import sys
import time
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

from backbones.mobilenet_v1 import fold_norms
from backbones.processors import usable_cores
from tasks.engine.model import Model


def lightning_precision(wanted: str | int, accelerator: str = "auto") -> str:
    """Lightning's name of a precision; auto is bf16 where the hardware is faster in it, else float32."""
    if wanted == "auto":
        wanted = "bf16" if has_fast_bf16(accelerator) else "32"
    return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[str(wanted)]


@cache
def has_fast_bf16(accelerator: str = "auto") -> bool:
    """Whether the GPU or, where there is none or for "cpu", the processor convolves faster in bfloat16 than float32.

    A processor that has the instructions is timed, for some 20 ms: with AVX512-BF16, bfloat16 may take twice the time
    of float32 (BENCHMARKS.md, Precision).
    """
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()):
        return False
    image = torch.ones(1, 256, 28, 28).contiguous(memory_format=torch.channels_last)
    weight, threads = torch.ones(256, 256, 1, 1), torch.get_num_threads()
    took = {torch.float32: math.inf, torch.bfloat16: math.inf}
    torch.set_num_threads(1)  # several would wait for each other on a busy machine
    for _ in range(10):
        for dtype in took:
            x, w = image.to(dtype), weight.to(dtype)
            start = time.perf_counter()
            F.conv2d(x, w)
            took[dtype] = min(took[dtype], time.perf_counter() - start)
    torch.set_num_threads(threads)
    return took[torch.bfloat16] < took[torch.float32]


def use_granted_cores() -> None:
    """Limits torch's threads to the processors that are available, unless OMP_NUM_THREADS is set: torch counts all
    processors of the machine even if a container's quota allows fewer, and its threads would wait for each other.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))


def keep_freed_memory(block: int = 1 << 30, total: int = (1 << 31) - 1) -> None:
    """Lets glibc reuse freed blocks of up to `block` bytes, `total` at most, instead of returning them to the system.

    A training step frees and allocates the same large blocks again; without this each one comes back as untouched
    pages, and faulting them in costs a fifth to a third of the step on a processor (BENCHMARKS.md).
    """
    if sys.platform == "linux" and not torch.cuda.is_available():
        M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt:
            mallopt(M_MMAP_THRESHOLD, block)
            mallopt(M_TRIM_THRESHOLD, total)


def measure_latency(model: Model, resolution: int, device: torch.device) -> dict[str, Any]:
    """Latency of a single image from uint8 to the network's outputs, in float32: the fastest of 15 rounds, as others
    may use the machine. A second round always starts; no later one starts after two seconds. `model` is modified in
    place; do not reuse it.
    """
    fold_norms(model).to(device)
    image = torch.zeros(1, 3, resolution, resolution, dtype=torch.uint8, device=device)
    times, end = [], time.monotonic() + 2
    with torch.inference_mode():
        for _ in range(15):
            start = time.perf_counter()
            model.run_all_layers(model.preprocess(image))
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
            times.append(1e3 * (time.perf_counter() - start))
            if time.monotonic() > end and len(times) > 1:
                break
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"latency_ms": round(min(times), 3), "on": name}
