"""Plain tasks and data sets become usable by a Trainer."""

from pathlib import Path

import torch
from lightning import LightningDataModule, LightningModule
from torch import nn

from data.base import SuiteData
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
