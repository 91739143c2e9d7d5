"""Quantization-aware training: training continues with int8 rounding, so that the weights adapt (Jacob et al. 2018)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from backbones.console import Console
from backbones.mobilenet_v1 import ConvNormAct
from data.base import SuiteData
from tasks.engine.callbacks import BadImageCounter
from tasks.engine.lightning import for_trainer
from tasks.engine.task import TaskModule
from tasks.engine.train import build_trainer, one_device

MEMORY = 0.99  # momentum of the moving activation ranges, per step


def straight_through(x: Tensor, low: Tensor, high: Tensor, levels: int) -> Tensor:
    """x rounded to `levels` equal steps from low to high, with the identity's gradient inside this range."""
    step = ((high - low) / levels).clamp(min=1e-8)
    inside = x.clamp(low, high)
    return inside + ((inside / step).round() * step - inside).detach()


class RoundedWeight(nn.Module):
    """Rounds the weights of each output channel to 255 symmetric levels."""

    def forward(self, weight: Tensor) -> Tensor:
        high = weight.detach().abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True)
        return straight_through(weight, -high, high, 254)


class Ranges:
    """Rounds a layer's output to 256 levels within the moving average of its range."""

    def __init__(self) -> None:
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def __call__(self, layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        low, high = output.detach().amin().clamp(max=0), output.detach().amax().clamp(min=0)
        if self.low is None or self.high is None:
            self.low, self.high = low, high
        self.low, self.high = self.low.lerp(low, 1 - MEMORY), self.high.lerp(high, 1 - MEMORY)
        return straight_through(output, self.low, self.high, 255)


def int8_layers(model: nn.Module) -> list[tuple[str, nn.Conv2d | nn.Linear, nn.Module]]:
    """The layers that int8 rounds: name, layer, and the module whose output is rounded (the activation is fused)."""
    blocks = {id(m.conv): m for m in model.modules() if isinstance(m, ConvNormAct)}
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return [(name, layer, blocks.get(id(layer), layer)) for name, layer in layers]


@contextmanager
def rounding(model: nn.Module) -> Iterator[None]:
    """In this context, weights and outputs of convolutions and fully connected layers are rounded as in int8."""
    layers = int8_layers(model)
    hooks = [end.register_forward_hook(Ranges()) for _, _, end in layers]
    for _, layer, _ in layers:
        parametrize.register_parametrization(layer, "weight", RoundedWeight())
    try:
        yield
    finally:
        for hook, (_, layer, _) in zip(hooks, layers, strict=True):
            hook.remove()
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


def fine_tune(module: TaskModule, data: SuiteData, steps: int, lr: float) -> None:
    """Trains the network of `module` (normalization folded) in place, with the task's own losses: for whole epochs,
    about `steps` in all, or for that many steps of an epoch that has more.
    """
    epoch = min(steps, data.train_batches(1))
    epochs = round(steps / epoch)
    Console().print(f"quantization-aware training: {epochs * epoch} steps")
    settings = module.config["trainer"] | one_device(module.config)
    settings |= {"max_epochs": epochs, "limit_train_batches": epoch, "precision": "32", "progress_bar": False}
    settings |= {"lr": lr, "optimizer": "adamw", "weight_decay": 0.0}
    settings |= {"freeze_backbone": False, "freeze_early_layers": False}
    before, module.config = module.config, module.config | {"trainer": settings}
    trainer = build_trainer(module.config, None, [BadImageCounter()])
    trainer.limit_val_batches = 0
    module.train()
    with rounding(module.model):
        trainer.fit(for_trainer(module), datamodule=for_trainer(data))
    module.config = before
    module.eval()
