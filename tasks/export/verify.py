"""Compares an exported file with its network, by outputs and by the task's own metric."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from data.base import SuiteData
from data.seeding import num_items
from tasks.engine.callbacks import BadImageCounter
from tasks.engine.lightning import for_trainer
from tasks.engine.model import Model
from tasks.engine.task import TaskModule
from tasks.engine.train import build_trainer
from tasks.export.graph import Graph
from tasks.export.qat import int8_layers

Runner = Callable[[npt.NDArray[Any]], list[npt.NDArray[Any]]]


class RuntimeModel(Model):
    """Returns the outputs of the exported file in place of the model's, so that a task evaluates the file."""

    def __init__(self, graph: Graph, runner: Runner, names: list[str]) -> None:
        nn.Module.__init__(self)  # there is no backbone
        self.graph, self.runner, self.names = graph, runner, names
        self.export_spec = graph.model.export_spec  # type: ignore[misc]  # a class attribute elsewhere

    def preprocess(self, images: Tensor) -> Tensor:
        return self.graph.pixels(images.cpu())

    def forward(self, pixels: Tensor) -> Any:
        outputs = [torch.from_numpy(np.array(a)) for a in self.runner(pixels.numpy())]
        return self.graph.model.from_export(dict(zip(self.names, outputs, strict=True)))


class ImageCounter(Callback):
    """Counts the validation images."""

    count = 0

    def on_validation_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.count += len(batch.images)


def validation(module: TaskModule, data: SuiteData, images: int) -> DataLoader:
    """A loader of about `images` validation images, evenly spaced because the split may be sorted by class; of all
    images if they are streamed (`measure` then stops early) or if the metrics compare them with each other.
    """
    loader = data.val_dataloader()
    if module.pairwise_metrics or isinstance(loader.dataset, IterableDataset):
        return loader
    items = num_items(data.dataset("val"))
    wanted = min(max(1, images), items)  # an item has one image, except in training
    rows = [i * items // wanted for i in range(wanted)]
    return DataLoader(loader.dataset, loader.batch_size, sampler=rows, collate_fn=data.collate)


def measure(
    module: TaskModule, data: SuiteData, images: int, model: Model | None = None
) -> tuple[dict[str, float], int]:
    """The task's metrics on about `images` validation images, and their number; `model` replaces the task's own."""
    settings = module.config["trainer"] | {"devices": 1, "num_nodes": 1, "accelerator": "cpu"}
    settings |= {"precision": "32", "progress_bar": False}
    counter = ImageCounter()
    trainer = build_trainer(module.config | {"trainer": settings}, None, [BadImageCounter(), counter])
    loader = validation(module, data, images)
    if not module.pairwise_metrics:
        trainer.limit_val_batches = -(-images // (loader.batch_size or 1))
    own = module.model
    if model is not None:
        module.model = model
    data.val_dataloader = lambda: loader  # type: ignore[method-assign]  # until it is deleted below
    try:
        trainer.validate(for_trainer(module), datamodule=for_trainer(data), verbose=False)
    finally:
        module.model = own
        del data.val_dataloader  # restores the method
    return {name: value for name, value in module.last_metrics.items() if name != "primary"}, counter.count


@torch.inference_mode()
def differences(graph: Graph, runner: Runner, batches: Iterable[Tensor]) -> dict[str, float]:
    """The largest difference between file and network for each output; for integers, the share that differs."""
    largest: dict[str, list[float]] = {}
    for images in batches:
        pixels = graph.pixels(images)
        expected = graph.named(pixels)
        for (name, wanted), got in zip(expected.items(), runner(pixels.numpy()), strict=True):
            error = np.abs(got.astype(np.float64) - wanted.double().numpy())
            integers = not wanted.is_floating_point()
            largest.setdefault(name, []).append(float((error > 0).mean() if integers else error.max()))
    return {name: max(values) for name, values in largest.items()}


@torch.inference_mode()
def most_sensitive_layers(graph: Graph, batches: list[Tensor]) -> list[tuple[str, float]]:
    """The five layers whose int8 rounding changes the outputs most, each with the relative error that it causes."""
    model = graph.model
    before = [t.double() for b in batches for t in graph(b) if t.is_floating_point()]
    losses = []
    for name, layer, end in int8_layers(model):
        weight = layer.weight.data
        layer.weight.data = rounded(weight, weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True) / 127)
        hook = end.register_forward_hook(lambda _, __, y: rounded(y, (y.amax() - y.amin()) / 255))
        after = [t.double() for b in batches for t in graph(b) if t.is_floating_point()]
        hook.remove()
        layer.weight.data = weight
        error = sum(float((a - b).norm()) for a, b in zip(after, before, strict=True))
        losses.append((name, error / max(sum(float(b.norm()) for b in before), 1e-9)))
    return sorted(losses, key=lambda row: -row[1])[:5]


def rounded(x: Tensor, step: Tensor) -> Tensor:
    step = step.clamp(min=1e-12)
    return (x / step).round() * step
