"""Times alternatives in turns, so that a noisy machine disturbs all of them alike."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch

from tasks.engine.hardware import has_fast_bf16, keep_freed_memory


def as_it_comes() -> None:
    """Gives the allocator the thresholds that glibc settles on by itself, for a peer's turn."""
    keep_freed_memory(block=32 << 20, total=64 << 20)


def seconds(alternatives: Mapping[str, Callable[[], object]], rounds: int = 7, warmup: int = 2) -> dict[str, float]:
    """Median seconds of a call of each alternative."""
    times: dict[str, list[float]] = {name: [] for name in alternatives}
    for i in range(warmup + rounds):
        for name, call in alternatives.items():
            start = time.perf_counter()
            call()
            if i >= warmup:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def machine() -> str:
    """The processor's features, threads and versions, for the head of a table."""
    amx, bf16 = torch.cpu._is_amx_tile_supported(), torch.cpu._is_avx512_bf16_supported()
    slow = "" if has_fast_bf16() else ", which is slower than float32"
    features = "AMX" if amx else f"AVX512-BF16{slow}" if bf16 else "no native bf16"
    return f"{platform.machine()}, {features}, {torch.get_num_threads()} threads, torch {torch.__version__}"
