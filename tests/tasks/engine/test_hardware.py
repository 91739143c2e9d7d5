"""The precision that is chosen."""

import time

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.engine.hardware import has_fast_bf16, lightning_precision


@pytest.mark.parametrize(("slow", "chosen"), [(torch.float32, "bf16-mixed"), (torch.bfloat16, "32-true")])
def test_the_faster_precision_is_chosen(slow: torch.dtype, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor that convolves more slowly in one; afterwards torch has its threads again."""
    convolve, threads = F.conv2d, torch.get_num_threads()

    def convolution(x: Tensor, weight: Tensor) -> Tensor:
        time.sleep(0.01 * (x.dtype == slow))
        return convolve(x.float(), weight.float()).to(x.dtype)  # whatever this machine's own speeds are

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(F, "conv2d", convolution)
    has_fast_bf16.cache_clear()
    try:
        assert lightning_precision("auto") == chosen
    finally:
        has_fast_bf16.cache_clear()
    assert torch.get_num_threads() == threads
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert lightning_precision("auto") == "32-true"
    has_fast_bf16.cache_clear()


def test_a_run_on_the_processor_does_not_ask_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    has_fast_bf16.cache_clear()
    try:
        assert [lightning_precision("auto", device) for device in ("auto", "cpu")] == ["bf16-mixed", "32-true"]
    finally:
        has_fast_bf16.cache_clear()


def test_a_precision_that_is_named_is_used() -> None:
    assert [lightning_precision(word) for word in ("32", 16, "bf16")] == ["32-true", "16-mixed", "bf16-mixed"]
