"""What a run of several tasks is made of: the schedule, the shared layers, the processes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from backbones.mobilenet_v1 import MobileNetV1
from backbones.timm import TimmBackbone
from data.base import end_processes
from data.seeding import Progress, ShuffledEpochs, Stream
from tasks.engine.cost import count_cost
from tasks.engine.multitask_config import compose_config
from tasks.engine.start import build_data
from tasks.multitask.data import JointLoader
from tasks.multitask.model import own_parameters
from tasks.multitask.processes import average_gradients
from tasks.multitask.schedule import draw_epoch, shares
from tasks.multitask.sharing import Sharing, is_own
from tasks.multitask.task import JointTask
from tests.tasks.multitask.conftest import given


def test_every_task_has_a_batch_in_every_step_at_temperature_0() -> None:
    plan = draw_epoch(shares([10, 1000, 50], 0.0), 200, seed=3, epoch=1)
    assert (np.sort(plan, axis=1) == np.arange(3)).all()
    assert {tuple(row) for row in plan} == {(a, b, 3 - a - b) for a in range(3) for b in range(3) if a != b}


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_batches_by_size(temperature: float) -> None:
    images = [100, 300, 50, 900]
    plan = draw_epoch(shares(images, temperature), 5000, seed=0, epoch=0)
    powers = np.array(images) ** temperature
    wanted = powers / powers.sum()
    counts = np.stack([(plan == task).sum(axis=1) for task in range(4)], axis=1)
    assert counts.mean(axis=0) / 4 == pytest.approx(wanted, abs=0.01)
    assert (np.abs(counts - 4 * wanted) < 1).all()  # each step has the floor or the ceiling


def test_the_schedule_follows_from_seed_and_epoch_alone() -> None:
    wanted = shares([1, 2, 3], 1.0)
    plans = [draw_epoch(wanted, 50, seed, epoch) for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert (plans[0] == plans[1]).all()
    assert (plans[0] != plans[2]).any()
    assert (plans[0] != plans[3]).any()


class Sevens(Stream):
    """Seven samples, in another order in each pass."""

    epoch = 0

    def __iter__(self) -> Iterator[Any]:
        return iter(np.random.default_rng(self.epoch).permutation(7).tolist())


@pytest.mark.parametrize("given", [1, 4, 9, 11])
def test_the_rest_of_an_epoch_is_what_was_not_given(given: int) -> None:
    """For a data set with a sampler, one that is repeated several times, and a stream."""

    def epoch(given: int) -> list[Any]:
        sizes = {"few": 5, "many": 60}
        place = {"seed": 3, "epoch": 2, "rank": 0, "world_size": 1}
        loaders: dict[str, DataLoader] = {
            name: DataLoader(own, 2, sampler=ShuffledEpochs(own, None, Progress, **place), collate_fn=list)
            for name, own in ((name, Rows(torch.arange(size))) for name, size in sizes.items())
        }
        loaders["stream"] = DataLoader(Sevens(), 2, drop_last=True, collate_fn=list)
        steps = JointLoader(loaders, [0.3, 0.3, 0.4], 12, seed=3, epoch=2, given=given)
        return [batch.rows for batch in steps] + [batch.rows for batch in steps]

    assert epoch(given) == epoch(0)[given:]


class Counted(Sevens):
    """It counts its passes, as shards do."""

    def __iter__(self) -> Iterator[Any]:
        self.epoch += 1
        return iter(np.random.default_rng(self.epoch).permutation(7).tolist())


def test_a_stream_read_by_other_processes_goes_on_as_it_would_have() -> None:
    """They persist between passes; an epoch equals the same one of a run that starts with it."""

    def steps(epoch: int) -> JointLoader:
        loader = DataLoader(Counted(), 2, num_workers=1, persistent_workers=True, drop_last=True, collate_fn=list)
        loaders.append(loader)
        return JointLoader({"stream": loader}, [1.0], 5, seed=3, epoch=epoch, given=0)

    loaders: list[DataLoader] = []
    whole, resumed = steps(0), steps(1)
    first, second = ([batch.rows for batch in whole] for _ in range(2))
    assert first != second
    assert [batch.rows for batch in resumed] == second
    for loader in loaders:
        end_processes(loader)


class Rows(TensorDataset):
    """Samples that are what their sampler asked for."""

    def __getitem__(self, item: Any) -> Any:
        return item


def backbones(kind: str, count: int) -> list[Any]:
    if kind == "timm":
        return [TimmBackbone("mobilenetv3_small_050", strides) for strides in [(8, 16, 32), (32,), (32,)][:count]]
    return [MobileNetV1(0.25, strides=strides) for strides in [(32,), (8, 16, 32), (32,)][:count]]


@pytest.mark.parametrize("kind", ["mobilenet_v1", "timm"])
@pytest.mark.parametrize("share", ["all", "norm", "depthwise"])
def test_backbones_share_what_is_said(kind: str, share: Any) -> None:
    sharing = Sharing()
    torch.manual_seed(0)
    own = [sharing.join(backbone, share) for backbone in backbones(kind, 3)]
    for backbone in own[1:]:
        first = dict(own[0].named_modules())
        for name, layer in backbone.named_modules():
            for key, parameter in layer.named_parameters(recurse=False):
                same = parameter is getattr(first[name], key)
                assert same == (not is_own(layer, share)), (name, key)
            if isinstance(layer, nn.BatchNorm2d):
                assert (layer.running_mean is first[name].running_mean) == (share == "all")
    images = torch.rand(2, 3, 64, 64)
    maps = [backbone.eval()(images)[-1] for backbone in own]
    for found in maps[1:]:  # a task's own layers start as copies of the first task's
        torch.testing.assert_close(found, maps[0], rtol=0, atol=0)


def test_the_first_tasks_detector_may_move_its_blocks() -> None:
    """Faster R-CNN moves the backbone's last blocks into its second stage; the other task still shares them."""
    given = ["task=multitask", "multitask.tasks=[detection,faces]", "detection.detector=faster_rcnn"]
    config, _ = compose_config([*given, "backbone.alpha=0.25"])
    module, _ = count_cost(config)
    assert isinstance(module, JointTask)
    parts = dict(module.each())
    own = own_parameters(dict(parts))
    assert set(own["faces"]) == set(parts["faces"].model.get_submodule("head").parameters())


def two_tasks(*settings: str) -> JointTask:
    """A run's module of two tasks, with weights between 0.1 and 0.2."""
    tasks = ["task=multitask", "multitask.tasks=[classification,faces]"]
    module, _ = count_cost(compose_config([*tasks, "backbone.alpha=0.25", *settings])[0])
    assert isinstance(module, JointTask)
    torch.manual_seed(0)
    for tensor in (*module.parameters(), *module.buffers()):  # which cost counting leaves uninitialised
        torch.nn.init.uniform_(tensor.data, 0.1, 0.2) if tensor.is_floating_point() else tensor.zero_()
    return module.eval()


@pytest.mark.parametrize("setting", ["balance=sum", "weights=[1,3]", "balance=uncertainty"])
def test_a_steps_gradient_is_the_sum_of_the_tasks(setting: str) -> None:
    """Against each task's loss alone, times its weight. A learned one is exp(-s), and s / 2 is added to the loss
    (Kendall et al. 2018).
    """
    module = two_tasks(f"multitask.{setting}")
    images = torch.rand(4, 3, 64, 64)
    parts = dict(module.each())
    learned = (-module.log_variances.detach()).exp()
    weights = {"weights=[1,3]": torch.tensor([1.0, 3.0]), "balance=uncertainty": learned}.get(setting, torch.ones(2))

    def loss(name: str) -> torch.Tensor:
        return parts[name].model(images).square().sum() * 1e-6

    wanted: dict[str, torch.Tensor] = {}
    for name, weight in zip(parts, weights, strict=True):
        module.zero_grad()
        loss(name).backward()
        for key, parameter in module.named_parameters():
            if parameter.grad is not None:
                wanted[key] = wanted.get(key, torch.zeros(())) + weight * parameter.grad
    if setting == "balance=uncertainty":
        wanted["log_variances"] = 0.5 - learned * torch.stack([loss(name).detach() for name in parts])
    module.zero_grad()
    for name in parts:
        module.balanced(name, loss(name)).backward()
    found = {key: p.grad for key, p in module.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys()
    for key, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[key])


@pytest.mark.parametrize(
    ("mode", "references", "wanted"),
    [
        ("max", "null", (0.6 + 0.3) / 2),
        ("max", "[0.8,0.6]", (0.6 / 0.8 + 0.3 / 0.6) / 2),
        ("min", "null", (0.6 + 1 / 1.3) / 2),
        ("min", "[0.8,0.6]", (0.6 / 0.8 + 0.6 / 0.3) / 2),
    ],
)
def test_the_mean_of_the_tasks_metrics(mode: Literal["max", "min"], references: str, wanted: float) -> None:
    """`mode` says whether higher or lower values of the second task's are better."""
    module = two_tasks(f"multitask.references={references}")
    dict(module.each())["faces"].mode = mode  # type: ignore[misc]  # a class attribute elsewhere
    assert module.mean({"classification/top1": 0.6, "faces/map": 0.3}) == pytest.approx(wanted)


def work(rank: int, file: str) -> None:
    """One process: averaged gradients, of its half of the images, and the first process's statistics."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4).eval(), nn.Linear(4, 1))
    images = torch.rand(8, 3)
    unused = nn.Linear(2, 2)
    net[0].register_module("unused", unused)
    net(images).square().mean().backward()
    wanted = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad(set_to_none=True)
    mean = net.get_buffer("1.running_mean")
    mean.zero_()
    net(images[4 * rank : 4 * rank + 4]).square().mean().backward()
    mean.fill_(float(rank))
    average_gradients(net, 2)
    found = [p.grad for p in net.parameters() if p.grad is not None]
    torch.testing.assert_close(found, wanted)
    assert unused.weight.grad is None
    assert not mean.any()
    torch.distributed.destroy_process_group()


def test_processes_step_as_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, (str(tmp_path / "meet"),), nprocs=2)


def test_unreadable_images_are_remembered_when_resuming(sets: dict[str, list[str]]) -> None:
    """Those of all tasks, of which metrics.json tells."""
    one, two = (build_data(compose_config(given(sets, "dogs", "faces"))[0]) for _ in range(2))
    problem = str(Path(sets["faces"][-1].partition("=")[2]) / "a.jpg"), "damaged"
    one.record_bad_images(cast(Any, [("faces", problem)]), "train")
    two.load_state_dict(one.state_dict())
    assert two.bad == one.bad == {"train": dict([problem])}
