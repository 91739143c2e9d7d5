"""Runs the networks of several tasks that share their whole backbone, in one pass through it."""

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from backbones.base import Backbone
from backbones.errors import UserError
from tasks.engine.model import ExportSpec, Model


class Maps(nn.Module):
    """Replaces a backbone, and returns previously computed feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.found


class OnePass(Model):
    """`models` by task, of one backbone and input side: an image goes through the backbone once. Outputs are named
    <task>.<output>. The models are modified in place; do not reuse them.

    Raises:
        UserError: no task's backbone returns the maps that all need, or a task has taken blocks out of it.
    """

    def __init__(self, models: Mapping[str, Model]) -> None:
        for name, model in models.items():
            if not model.has_whole_backbone:
                raise UserError(
                    f"part=all: {name} has the last blocks of the backbone in a second stage; export it alone"
                )
        wanted = sorted({stride for model in models.values() for stride in model.backbone.strides})
        covering = [model.backbone for model in models.values() if list(model.backbone.strides) == wanted]
        if not covering:
            raise UserError(f"part=all: no task's backbone has the maps at all of the strides {wanted}")
        super().__init__(covering[0])
        self.strides_of = {name: model.backbone.strides for name, model in models.items()}
        self.models = nn.ModuleDict(models)
        meanings = {f"{n}.{key}": text for n, m in models.items() for key, text in m.export_spec.outputs.items()}
        self.export_spec = ExportSpec(meanings)  # type: ignore[misc]  # a class has one; this depends on the models
        for model in models.values():
            model.backbone = cast(Backbone, Maps())

    def export_forward(self, images: Tensor, with_nms: bool) -> dict[str, Tensor]:
        maps = dict(zip(self.backbone.strides, self.backbone(images), strict=True))
        found: dict[str, Tensor] = {}
        for name, module in self.models.items():
            model = cast(Model, module)
            place = cast(Maps, model.backbone)
            place.found = [maps[stride] for stride in self.strides_of[name]]
            found |= {f"{name}.{key}": tensor for key, tensor in model.export_forward(images, with_nms).items()}
            place.found = []
        return found

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.export_forward(images, with_nms=False)

    def run_all_layers(self, images: Tensor) -> None:
        self(images)
