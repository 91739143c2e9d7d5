"""Plain tasks and data sets become usable by a Trainer."""

from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from data.base import Batch, SuiteData
from tasks.engine.lightning import for_trainer
from tasks.engine.task import TaskModule


class Part(TaskModule):
    def __init__(self, inside: nn.Module) -> None:
        nn.Module.__init__(self)
        self.inside = inside
        self.made = 0

    def build_metrics(self) -> None:
        self.made += 1


def test_a_task_and_those_inside_it_become_lightnings_with_all_that_they_hold() -> None:
    layer = nn.Linear(2, 3)
    inner = Part(layer)
    outer = Part(nn.ModuleList([inner]))
    before = {name: value.clone() for name, value in outer.state_dict().items()}
    assert not isinstance(outer, LightningModule)
    for _ in range(2):
        assert for_trainer(outer) is outer
        for part in (outer, inner):
            assert isinstance(part, LightningModule)
            assert isinstance(part, Part)
            assert part.made == 1
    assert type(outer) is type(inner)
    assert inner.inside is layer
    assert outer.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in outer.state_dict().items())
    assert outer.to(torch.float64).dtype == torch.float64
    assert layer.weight.dtype == torch.float64


def test_a_data_set_becomes_lightnings(tmp_path: Path) -> None:
    data = SuiteData(str(tmp_path), batch_size=3)
    assert not isinstance(data, LightningDataModule)
    assert for_trainer(data) is for_trainer(data) is data
    assert isinstance(data, LightningDataModule)
    assert isinstance(data, SuiteData)
    assert (data.root, data.batch_size, data.trainer) == (tmp_path, 3, None)


class Copies(TorchDispatchMode):
    """Notes whether each copy to another device may still be running when the source is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.unblocked: list[bool] = []

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        if function is torch.ops.aten._to_copy.default:
            self.unblocked.append(bool(named.get("non_blocking")))
        return function(*given, **(named or {}))


def test_batches_are_copied_before_their_source_is_freed() -> None:
    """Copies to Apple's GPUs, unlike those to CUDA, do not keep it."""
    with Copies() as copies:
        move_data_to_device(Batch(torch.ones(2, 3), torch.ones(2, 2), []), torch.device("meta"))
    assert copies.unblocked == [False, False]
