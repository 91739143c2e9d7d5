"""Reads pretrained weights for MobileNetV1 from the layouts they are published in."""

import json
import logging
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import safe_open
from torch import Tensor, nn

from backbones.base import Normalization
from backbones.download import cache_folder, download, reachable
from backbones.errors import UserError
from backbones.files import zip_entries
from backbones.mobilenet_v1 import BLOCKS, MobileNetV1, Padding


@dataclass
class Weights:
    """A state dict in our names, with the settings that the weights were trained for."""

    source: str
    state: dict[str, Tensor]
    padding: Padding = "same"
    norm_eps: float = 1e-3
    normalization: Normalization = field(default_factory=Normalization)
    classifier: dict[str, Tensor] = field(default_factory=dict)  # weight, bias; empty if there is none
    activation: str = "relu6"


log = logging.getLogger(__name__)

NORM_NAMES = ("weight", "bias", "running_mean", "running_var")
KERAS_NORM_NAMES = ("gamma", "beta", "moving_mean", "moving_variance")
# timm groups blocks by resolution; this is the (stage, index) of each block in our order.
TIMM_BLOCKS = [(s, i) for s, count in enumerate((1, 2, 2, 6, 2)) for i in range(count)]
PUBLIC_ALPHAS = {1.0: "1_0", 0.75: "7_5", 0.5: "5_0", 0.25: "2_5"}
PUBLIC_RESOLUTIONS = (224, 192, 160, 128)
HDF5 = b"\x89HDF\r\n\x1a\n"  # first bytes of an HDF5 file
MAX_BYTES = 1_000_000_000  # of a weights file; the largest public one is 17 MB
MOST_KERAS = 1 << 28  # unpacked bytes of the weights in an .h5 file; those of alpha 2 are 54 MB


def _layers() -> Iterator[tuple[str, str, str, str, str]]:
    """(our name, Keras kernel, Keras norm, timm kernel, timm norm) of every convolution of the network."""
    yield "blocks.0", "conv1/conv1/kernel", "conv1_bn/conv1_bn", "conv_stem", "bn1"
    for i, (stage, index) in enumerate(TIMM_BLOCKS, start=1):
        timm = f"blocks.{stage}.{index}"
        for ours, short, kernel, timm_kernel, timm_norm in (
            (f"blocks.{i}.0", f"conv_dw_{i}", "depthwise_kernel", f"{timm}.conv_dw", f"{timm}.bn1"),
            (f"blocks.{i}.1", f"conv_pw_{i}", "kernel", f"{timm}.conv_pw", f"{timm}.bn2"),
        ):
            yield ours, f"{short}/{short}/{kernel}", f"{short}_bn/{short}_bn", timm_kernel, timm_norm


def read_weights(path: Path) -> Weights:
    """Weights from a Keras applications .h5 file, one of our checkpoints, or a timm state dict.

    Raises:
        UserError: the file is absent, unreadable, or of another kind.
    """
    if path.suffix in (".h5", ".hdf5"):
        with _reading_weights(path):
            return _from_keras(path)
    content = read_tensors(path)
    state = content.get("state_dict", content)
    if "suite" in content:
        weights = _from_checkpoint(path, content)
    elif isinstance(state, dict) and "conv_stem.weight" in state:
        weights = _from_timm(path, state)
    else:
        raise UserError(
            f"backbone.weights: {path} is neither a Keras applications MobileNet, a checkpoint of this suite, "
            "nor a timm mobilenetv1 state dict"
        )
    size = path.stat().st_size
    if not all(is_stored(name, value, size) for name, value in (weights.state | weights.classifier).items()):
        raise UserError(f"backbone.weights: {path} is damaged: its weights are not named tensors")
    return weights


def read_tensors(path: Path) -> dict[str, Any]:
    """The content of a torch or safetensors file, by name.

    Raises:
        UserError: the file is absent, or cannot be read.
    """
    with _reading_weights(path):
        content = load_plain(path)
    if not isinstance(content, dict):
        raise UserError(f"backbone.weights: {path} holds no named tensors")
    return content


def load_plain(path: Path) -> Any:
    """The tensors and plain values of a torch or safetensors file, which is not trusted.

    Raises:
        UserError: it is compressed, as torch's files never are, or holds data twice: it could unpack to any size.
        Exception: whatever torch or safetensors raise for an invalid file.
    """
    if path.suffix == ".safetensors":
        state, suite = read_safetensors(path)
        return state if suite is None else {"suite": suite, "state_dict": state}
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\3\4"  # by which torch decides how to read it
    entries = zip_entries(path) if zipped else []
    if any(e.compress_type for e in entries) or sum(e.file_size for e in entries) > path.stat().st_size:
        raise UserError(f"{path} is not a file of torch's: it is compressed or repeats data, and could take any memory")
    return torch.load(path, map_location="cpu", weights_only=True)


def is_stored(name: Any, value: Any, size: int) -> bool:
    """Whether it is a named, dense tensor that fits into a file of `size` bytes: expanded ones could claim any size."""
    dense = isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided
    return dense and value.device.type == "cpu" and value.numel() * value.element_size() <= size


@contextmanager
def reading(file: str, otherwise: str) -> Iterator[None]:
    """Turns any error while a file is read into a UserError: it is damaged, or `otherwise`."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or 'it is damaged'}") from error
    except Exception as error:  # an invalid file may raise anything; torch's message suggests weights_only=False
        raise UserError(f"{file} cannot be read: it is damaged, or {otherwise}") from error


@contextmanager
def _reading_weights(path: Path) -> Iterator[None]:
    """As `reading`, for the file of backbone.weights, which must exist."""
    if not path.is_file():
        raise UserError(f"backbone.weights: there is no file {path}")
    with reading(f"backbone.weights: {path}", "holds no weights"):
        yield


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """The tensors of a file by name, and the description that an export of format=torch has in its header, else None.
    A tensor with several names is stored once; the header's `same` maps the others to the stored name.

    Raises:
        UserError: `same` names no tensor of the file.
    """
    with safe_open(path, "pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        header = file.metadata() or {}
    same = json.loads(header.get("same", "{}"))
    if not isinstance(same, dict) or not all(isinstance(owner, str) and owner in state for owner in same.values()):
        raise UserError(f"{path} is damaged: its header names tensors that it does not hold")
    state |= {name: state[owner] for name, owner in same.items() if name not in state}
    return state, json.loads(header["suite"]) if "suite" in header else None


def _from_keras(path: Path) -> Weights:
    import h5py

    left = MOST_KERAS

    def inside(group: Any, name: str) -> Any:
        """What a group itself contains: links that are not hard may lead to other files."""
        for part in name.split("/"):
            if group.id.links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
                raise UserError(f"backbone.weights: {path} has a link to elsewhere, {name}")
            group = group[part]
        return group

    def tensor(name: str, *axes: int) -> Tensor:
        nonlocal left
        data = inside(file, f"{name}:0")
        left -= data.nbytes
        chunk = math.prod(data.chunks or ()) * data.dtype.itemsize  # unpacked as a whole, even if larger than the data
        if left < 0 or chunk > data.nbytes or data.dtype.kind != "f" or data.external or data.is_virtual:
            raise UserError(f"backbone.weights: {path} does not itself contain {name}")
        array = torch.from_numpy(data[()])
        return array.permute(*axes).contiguous() if axes else array

    weights = Weights(str(path), {})
    with h5py.File(path) as file:
        if file.id.links.exists(b"model_weights"):  # a whole saved model holds them one level down
            file = inside(file, "model_weights")
        for ours, kernel, norm, _, _ in _layers():
            # kernels are HWIO; depthwise ones HWC1
            axes = (2, 3, 0, 1) if kernel.endswith("depthwise_kernel") else (3, 2, 0, 1)
            weights.state[f"{ours}.conv.weight"] = tensor(kernel, *axes)
            for theirs, name in zip(KERAS_NORM_NAMES, NORM_NAMES, strict=True):
                weights.state[f"{ours}.norm.{name}"] = tensor(f"{norm}/{theirs}")
        if file.id.links.exists(b"conv_preds"):
            weights.classifier = {
                "weight": tensor("conv_preds/conv_preds/kernel", 3, 2, 0, 1).flatten(1),
                "bias": tensor("conv_preds/conv_preds/bias"),
            }
    return weights


def _from_timm(path: Path, state: dict[str, Tensor]) -> Weights:
    weights = Weights(str(path), {}, padding="symmetric", norm_eps=1e-5)
    for ours, _, _, kernel, norm in _layers():
        pairs = {f"{ours}.conv.weight": f"{kernel}.weight"}
        pairs |= {f"{ours}.norm.{name}": f"{norm}.{name}" for name in NORM_NAMES}
        # missing tensors are reported when the weights are loaded
        weights.state |= {mine: state[theirs] for mine, theirs in pairs.items() if theirs in state}
    if {"classifier.weight", "classifier.bias"} <= set(state):
        weights.classifier = {name: state[f"classifier.{name}"] for name in ("weight", "bias")}
    return weights


def _from_checkpoint(path: Path, checkpoint: dict) -> Weights:
    prefix = "model.backbone."
    try:
        state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
        resolved = checkpoint["suite"]["backbone"]
        normalization = Normalization.of(resolved["normalization"])
        padding, norm_eps = resolved.get("padding"), resolved.get("norm_eps")
        activation = str(checkpoint["suite"].get("config", {}).get("backbone", {}).get("activation", "relu6"))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"backbone.weights: {path} is damaged, or a checkpoint of an older version") from error
    if padding not in get_args(Padding) or type(norm_eps) is not float or not 0 < norm_eps < 1:
        raise UserError(f"backbone.weights: {path} is a checkpoint of another backbone, not of mobilenet_v1")
    return Weights(str(path), state, padding, norm_eps, normalization, activation=activation)


def load_weights(module: nn.Module, weights: Weights) -> None:
    """Copies the weights into a backbone.

    Raises:
        UserError: tensors are missing or have another shape; the message names all.
    """
    wanted = {k: v for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}
    misfits = []
    for name, tensor in wanted.items():
        if not isinstance(weights.state.get(name), Tensor):
            misfits.append(f"{name} is missing")
        elif weights.state[name].shape != tensor.shape:
            misfits.append(f"{name} is {tuple(weights.state[name].shape)}, not {tuple(tensor.shape)}")
    if misfits:
        raise UserError(
            f"{weights.source} does not fit the backbone{_alpha_hint(weights)}: "
            f"{len(misfits)} tensors differ: {'; '.join(misfits)}"
        )
    module.load_state_dict({name: weights.state[name] for name in wanted}, strict=False)
    if has_folded_norms(module):
        log.warning("%s has folded normalization: its statistics are measured on the first batch", weights.source)


def has_folded_norms(network: nn.Module) -> bool:
    """Whether all normalization has the statistics of new layers, mean 0 and variance 1, but not their shift, 0."""
    norms = [m.state_dict() for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    new = all(not norm["running_mean"].any() and (norm["running_var"] == 1).all() for norm in norms)
    return new and any(norm["bias"].any() for norm in norms)


def unfold_at_first_batch(network: nn.Module) -> None:
    """Unfolds normalization that is folded on the next batch with gradients. Called when training starts, with all
    weights in place; a frozen network is unfolded too, so that no average of its weights mixes both forms.
    """

    def unfold(_: nn.Module, inputs: tuple[Tensor]) -> None:
        if torch.is_grad_enabled():
            hook.remove()
            if has_folded_norms(network):  # another task's batch may have unfolded shared layers
                unfold_norms(network, inputs[0])

    if has_folded_norms(network):
        hook = network.register_forward_pre_hook(unfold)


@torch.no_grad()
def unfold_norms(network: nn.Module, images: Tensor) -> None:
    """Sets folded normalization to the statistics of its inputs over `images` (B, 3, H, W), and to a scale and shift
    with which its outputs stay the same. Otherwise training, which normalizes by the batch's own statistics, would
    change the features.
    """

    def measure(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        x = inputs[0].float()
        moments = torch.stack([x.mean(dim=(0, 2, 3)), x.square().mean(dim=(0, 2, 3))])
        if torch.distributed.is_available() and torch.distributed.is_initialized():  # the same for all processes
            torch.distributed.all_reduce(moments)
            moments /= torch.distributed.get_world_size()
        mean, variance = moments[0], (moments[1] - moments[0].square()).clamp(min=0)
        scale = norm.weight / (1 + norm.eps) ** 0.5
        norm.bias.add_(scale * mean)
        norm.weight.copy_(scale * (variance + norm.eps).sqrt())
        norm.load_state_dict({"running_mean": mean, "running_var": variance}, strict=False)

    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    learning = [module for module in network.modules() if module.training]  # without frozen layers
    network.eval()
    network(images)
    for module in learning:
        module.training = True
    for hook in hooks:
        hook.remove()


def _alpha_hint(weights: Weights) -> str:
    last = max((int(m[1]) for k in weights.state if (m := re.match(r"blocks\.(\d+)\.", k))), default=0)
    kernel = weights.state.get(f"blocks.{last}.1.conv.weight")
    return "" if kernel is None else f" (these weights have backbone.alpha={len(kernel) / BLOCKS[-1][0]:g})"


def public_name(alpha: float, resolution: int) -> str:
    """The name of the public Keras file for an alpha and one of PUBLIC_RESOLUTIONS."""
    return f"mobilenet_{PUBLIC_ALPHAS[alpha]}_{resolution}_tf_no_top.h5"


def fetch_pretrained(alpha: float, resolution: int, url: str, fail_fast: bool = False) -> Path:
    """The public Keras ImageNet file for alpha and the nearest resolution, downloaded once into the cache. With
    `fail_fast` it fails within seconds if the server cannot be reached.

    Raises:
        UserError: there is no public file for this alpha, or it cannot be obtained.
    """
    if alpha not in PUBLIC_ALPHAS:
        raise UserError(f"backbone.pretrained: public weights exist for alpha {sorted(PUBLIC_ALPHAS)}, not {alpha}")
    nearest = min(PUBLIC_RESOLUTIONS, key=lambda r: abs(r - resolution))
    name = public_name(alpha, nearest)
    path = cache_folder() / name
    if not path.exists():
        if fail_fast and not reachable(url):
            raise UserError(f"{url} cannot be reached; put {name} into {path.parent}, or set backbone.weights=<file>")
        download(f"{url.rstrip('/')}/{name}", path, max_bytes=MAX_BYTES)
        with path.open("rb") as file:
            if file.read(len(HDF5)) != HDF5:  # such as a network's login page
                path.unlink()
                raise UserError(f"{url} sent no weights for {name}; does this network ask you to log in?")
    return path


def available_pretrained(alpha: float, resolution: int, url: str) -> str | None:
    """As `fetch_pretrained`, but None if the file cannot be obtained, within seconds if the server is unreachable."""
    try:
        path = fetch_pretrained(alpha, resolution, url, fail_fast=True)
    except UserError as error:
        log.warning("no ImageNet weights, training starts from scratch: %s", error)
        return None
    log.info("starts from ImageNet weights: %s", path)
    return str(path)


def build_mobilenet_v1(
    *,
    weights: str | None = None,
    pretrained: bool | Literal["auto"] = False,
    pretrained_url: str = "",
    padding: Padding | None = None,
    norm_eps: float | None = None,
    strides: Sequence[int] = (32,),
    resolution: int = 224,
    **settings: Any,
) -> MobileNetV1:
    """A MobileNetV1 with the weights that the settings name, or random ones.

    `padding` and `norm_eps` come from the weights unless given, `normalization` always does. If
    `pretrained` is auto, ImageNet weights are used and logged if they can be obtained.
    """
    if weights is None and pretrained:
        alpha, plain = settings.get("alpha", 1.0), settings.get("variant", "separable") == "separable"
        if pretrained != "auto":
            weights = str(fetch_pretrained(alpha, resolution, pretrained_url))
        elif plain and settings.get("activation", "relu6") == "relu6":
            weights = available_pretrained(alpha, resolution, pretrained_url)
        pretrained = weights is not None
    source = read_weights(Path(weights)) if weights else Weights("random", {})
    given = {"padding": (padding, source.padding), "activation": (settings.get("activation"), source.activation)}
    if weights:
        for name, (wanted, trained) in given.items():
            if wanted not in (None, trained):
                log.warning("%s was trained with %s=%s; %s=%s costs accuracy", weights, name, trained, name, wanted)
    padding, norm_eps = padding or source.padding, norm_eps or source.norm_eps
    settings |= {"padding": padding, "norm_eps": norm_eps, "normalization": source.normalization}
    network = MobileNetV1(**settings, strides=strides)
    network.resolved = {"padding": padding, "norm_eps": norm_eps, "pretrained": bool(pretrained)}
    if weights:
        load_weights(network, source)
        network.classifier = source.classifier
    return network
