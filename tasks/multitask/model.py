"""The networks of several tasks as one."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from tasks.engine.model import Model


class JointModel(Model):
    """The models of a run's tasks, by name; each sees the image resized to its own side in `sides` (pixels)."""

    def __init__(self, models: Mapping[str, Model], sides: Mapping[str, int]) -> None:
        nn.Module.__init__(self)  # the backbones are the models' own
        self.models = nn.ModuleDict(models)
        self.sides = dict(sides)

    def each(self) -> Iterator[tuple[str, Model]]:
        for name, model in self.models.items():
            assert isinstance(model, Model)
            yield name, model

    def preprocess(self, images: Tensor) -> Tensor:
        """RGB (B, 3, R, R) in 0..255 as it is: each model has its own normalisation."""
        return images.float()

    def forward(self, images: Tensor) -> dict[str, Any]:
        """Images (B, 3, R, R) in 0..255 to each model's raw outputs, by name."""
        return {name: model(self._seen(name, model, images)) for name, model in self.each()}

    def run_all_layers(self, images: Tensor) -> None:
        for name, model in self.each():
            model.run_all_layers(self._seen(name, model, images))

    def _seen(self, name: str, model: Model, images: Tensor) -> Tensor:
        side = self.sides[name]
        seen = images if images.shape[-1] == side else F.interpolate(images, (side, side), mode="bilinear")
        return model.preprocess(seen)


def own_parameters(modules: Mapping[str, nn.Module]) -> dict[str, list[nn.Parameter]]:
    """The parameters of each module that it shares with no other."""
    owners: dict[nn.Parameter, list[str]] = {}
    for name, module in modules.items():
        for parameter in module.parameters():
            owners.setdefault(parameter, []).append(name)
    return {name: [p for p, own in owners.items() if own == [name]] for name in modules}
