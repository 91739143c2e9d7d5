"""Quantization-aware training: how long it takes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.engine.checkpoint import load_checkpoint
from tasks.engine.start import build_data
from tasks.engine.task import restore
from tasks.export.qat import fine_tune
from tests.conftest import SMALL, untrained


@pytest.mark.parametrize(("asked", "done"), [(3, 3), (9, 8)])
def test_it_is_as_long_as_asked(
    dogs: Path,
    tmp_path: Path,
    asked: int,
    done: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A part of an epoch, which has four steps, or the nearest number of epochs."""
    content = load_checkpoint(untrained(tmp_path / "a", *SMALL, "task=dogs", "data=dogs", f"data.root={dogs}"))
    data, module = build_data(content["suite"]["config"]), restore(content)
    losses, steps = module.compute_losses, []

    def count(batch: Any) -> dict[str, torch.Tensor]:
        steps.append(batch)
        return losses(batch)

    monkeypatch.setattr(module, "compute_losses", count)
    fine_tune(module, data, asked, lr=1e-4)
    assert len(steps) == done
    assert f"quantization-aware training: {done} steps\n" in capsys.readouterr().out
