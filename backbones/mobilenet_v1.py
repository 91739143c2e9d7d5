"""MobileNetV1 (Howard et al. 2017, arXiv 1704.04861) with its width multiplier and its variants."""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from operator import mul
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from backbones.base import Backbone, Foldable, Normalization, tapped_outputs
from backbones.depthwise import Pair, StridedDepthwise, pad_after
from backbones.fused import can_fuse, convolve_and_clip, is_eager_cpu

Padding = Literal["same", "symmetric"]
Variant = Literal["separable", "conv", "shallow"]

# (depth, stride) of the separable blocks, Table 1. The table prints stride 2 for the last; it is 1.
BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1),) * 5,
    *((1024, 2), (1024, 1)),
)
SHALLOW_BLOCKS = BLOCKS[:6] + BLOCKS[11:]  # Table 5: without the five blocks of 14 x 14 x 512
STEM_DEPTH = 32


def scaled_depth(depth: int, alpha: float, minimum: int = 8) -> int:
    """Channels of a layer of `depth` at width multiplier alpha, by TF-Slim's rule."""
    return max(minimum, int(depth * alpha))


class SpatialConv2d(nn.Conv2d):
    """3 x 3 convolution, padded at stride 2 either as TensorFlow does (an even side by 0 before and 1 after, an
    odd one by 1 and 1) or symmetrically (by 1 and 1).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int, padding: Padding) -> None:
        super().__init__(inputs, outputs, 3, stride, 1, groups=groups, bias=False)
        self.same = padding == "same"

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if is_eager_cpu(x) and x.requires_grad and self.groups > 1 and self.stride[0] > 1 and x.shape[-2:] != (1, 1):
            if torch.is_autocast_enabled("cpu"):
                dtype = torch.get_autocast_dtype("cpu")
                x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
            return StridedDepthwise.apply(x, weight, bias, self._padding_before(x))
        x, weight, stride, padding = self.prepare(x, weight)
        return F.conv2d(x, weight, bias, stride, padding, 1, self.groups)

    def prepare(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Pair, Pair]:
        """The arguments with which F.conv2d pads x as required: input, weight, stride and symmetric padding."""
        if self.stride[0] == 1:
            return x, weight, (1, 1), (1, 1)
        if x.shape[-2:] == (1, 1):
            # Only the middle weight sees the pixel. The gradient of the others is zero, but oneDNN leaves it
            # uninitialised in bfloat16 (torch 2.14).
            return x, weight[:, :, 1:2, 1:2], (1, 1), (0, 0)
        top, left = self._padding_before(x)
        if not (top and left):
            after = (1 - top, 1 - left)
            in_place = is_eager_cpu(x) and not x.requires_grad
            x = pad_after(x, *after) if in_place else F.pad(x, (0, after[1], 0, after[0]))
        return x, weight, (2, 2), (top, left)

    def _padding_before(self, x: Tensor) -> Pair:
        """Rows above and columns to the left, at stride 2."""
        top, left = (0 if self.same and side % 2 == 0 else 1 for side in x.shape[-2:])
        return top, left


class ConvNormAct(Foldable, nn.Sequential):
    """Convolution, batch normalization and activation, as every layer of the network is built."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Literal[1, 3] = 1,
        stride: int = 1,
        groups: int = 1,
        *,
        padding: Padding = "same",
        norm_eps: float = 1e-3,
        activation: type[nn.Module] = nn.ReLU6,
    ) -> None:
        super().__init__()
        if kernel == 3:
            self.conv: nn.Conv2d = SpatialConv2d(inputs, outputs, stride, groups, padding)
        else:
            self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs, eps=norm_eps)
        self.act = activation(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        if isinstance(norm, nn.Identity) and not torch.is_grad_enabled() and can_fuse(x, self):
            weight, stride, padding = self.conv.weight, (1, 1), (0, 0)
            if isinstance(self.conv, SpatialConv2d):
                x, weight, stride, padding = self.conv.prepare(x, weight)
            return convolve_and_clip(x, weight, self.conv.bias, stride, padding, self.conv.groups, self.act)
        if norm.training or not torch.is_grad_enabled() or not isinstance(norm, nn.BatchNorm2d):
            return super().forward(x)
        # with frozen statistics it is a scale and a shift, merged here into the convolution (BENCHMARKS.md)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight = self.conv.weight * scale[:, None, None, None]
        return self.act(self.conv._conv_forward(x, weight, norm.bias - norm.running_mean * scale))

    def fold(self) -> None:
        """Folds the normalization into the convolution, for inference: same outputs, a seventh less time."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv.eval(), self.norm.eval())
            self.norm = nn.Identity()


Network = TypeVar("Network", bound=nn.Module)


def fold_norms(model: Network) -> Network:
    """Folds the normalization of every `Foldable` in `model`, in place; inference only afterwards."""
    for module in list(model.modules()):
        if isinstance(module, Foldable):
            module.fold()
    return model.eval()


class MobileNetV1(Backbone):
    """Table 1 without its classifier; `variant` gives the networks of Tables 4 (conv) and 5 (shallow).

    `strides` picks the maps to return: for each, the output of the last block at that stride.

    Raises:
        ValueError: alpha outside (0, 2], or a stride that the network does not have.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        variant: Variant = "separable",
        padding: Padding = "same",
        activation: Literal["relu6", "relu"] = "relu6",
        norm_eps: float = 1e-3,
        normalization: Sequence[Sequence[float]] = Normalization(),
        strides: Sequence[int] = (32,),
    ) -> None:
        super().__init__()
        if not 0 < alpha <= 2:
            raise ValueError(f"alpha must be in (0, 2], not {alpha}")
        table = SHALLOW_BLOCKS if variant == "shallow" else BLOCKS
        depths = [scaled_depth(d, alpha) for d in (STEM_DEPTH, *(depth for depth, _ in table))]
        block_strides = (2, *(stride for _, stride in table))
        # dict keeps the last block that is seen at each stride
        last_block = {stride: i for i, stride in enumerate(accumulate(block_strides, mul))}
        if not set(strides) <= set(last_block) or list(strides) != sorted(set(strides)):
            raise ValueError(f"strides must be an increasing choice of {list(last_block)}, not {strides}")

        self.width = alpha
        self.early = last_block[4] + 1
        self.depths = depths
        self.strides = tuple(strides)
        self.taps = tuple(last_block[stride] for stride in strides)
        self.channels = tuple(depths[i] for i in self.taps)
        self.normalization = Normalization.of(normalization)
        activations: dict[str, type[nn.Module]] = {"relu6": nn.ReLU6, "relu": nn.ReLU}
        layer = partial(ConvNormAct, padding=padding, norm_eps=norm_eps, activation=activations[activation])

        def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
            if variant == "conv":
                return layer(inputs, outputs, 3, stride)
            return nn.Sequential(layer(inputs, inputs, 3, stride, groups=inputs), layer(inputs, outputs))

        self.blocks = nn.ModuleList([layer(3, depths[0], 3, 2)])
        self.blocks.extend(map(block, depths[:-1], depths[1:], block_strides[1:]))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def early_layers(self) -> Sequence[nn.Module]:
        return list(self.blocks[: self.early])

    def forward(self, images: Tensor) -> list[Tensor]:
        return tapped_outputs(self.blocks, self.taps, images)
