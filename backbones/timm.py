"""Any timm model that supports features_only."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
from torch import Tensor

from backbones.base import Backbone, Normalization
from backbones.errors import UserError, first_line
from backbones.weights import read_tensors


class TimmBackbone(Backbone):
    """A timm model's last map at each of `strides`."""

    def __init__(
        self, name: str, strides: Sequence[int], *, pretrained: bool = False, weights: str | None = None
    ) -> None:
        super().__init__()
        probe: Any = timm.create_model(name, features_only=True)
        index = {reduction: i for i, reduction in enumerate(probe.feature_info.reduction())}
        if missing := [s for s in strides if s not in index]:
            raise UserError(f"backbone.name={name} has no map at stride {missing[0]}; it has {sorted(index)}")
        overlay = {"state_dict": read_state(name, weights)} if weights else None
        model: Any = timm.create_model(
            name,
            pretrained=pretrained or weights is not None,
            features_only=True,
            out_indices=[index[s] for s in strides],
            pretrained_cfg_overlay=overlay,
        )
        self.model = model
        # only some of timm's feature extractors declare it
        self.channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        self.strides = tuple(strides)
        self.channels = tuple(model.feature_info.channels())
        self.normalization = Normalization.of([model.default_cfg[key] for key in ("mean", "std")])

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.model(images)
        return [x.permute(0, 3, 1, 2) for x in maps] if self.channels_last else maps


def read_state(name: str, weights: str) -> dict[str, Any]:
    """The state dict in a file, which must have all layers of the model except its classifier; timm itself would
    silently load only those that fit.

    Raises:
        UserError: a layer is missing or has another shape.
    """
    content = read_tensors(Path(weights))
    state: dict[str, Any] = content.get("state_dict", content)
    whole: Any = timm.create_model(name)
    classifier = whole.default_cfg["classifier"]
    heads = tuple(f"{head}." for head in ([classifier] if isinstance(classifier, str) else classifier))
    wanted = {k: v.shape for k, v in whole.state_dict().items() if not k.startswith(heads)}
    if lacking := [k for k, shape in wanted.items() if getattr(state.get(k), "shape", None) != shape]:
        raise UserError(f"backbone.weights: {weights} does not fit timm's {name}, for example {lacking[0]}")
    return state


def build_timm(
    *,
    name: str,
    weights: str | None = None,
    pretrained: bool = False,
    strides: Sequence[int] = (32,),
    resolution: int = 224,
) -> TimmBackbone:
    """The named model; `weights` is a state dict of the whole timm model, `pretrained` downloads timm's own.

    Raises:
        UserError: timm has no such model, the model lacks a stride, or the weights cannot be obtained or do not fit.
    """
    if not timm.is_model(name) or "/" in name:  # it looks only at what comes before a dot
        close = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        hint = f"; did you mean one of {', '.join(close)}?" if close else ""
        raise UserError(f"backbone.name={name}: timm has no such model{hint}")
    try:
        return TimmBackbone(name, strides, pretrained=pretrained, weights=weights)
    except (OSError, RuntimeError) as error:
        raise UserError(f"backbone.name={name}: {first_line(error)}") from error
