"""Networks to learn from: they look on at training, and are no part of what is trained or saved."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.errors import UserError
from tasks.classification.model import Classifier

Logits = Callable[[Tensor], Tensor]


class Teacher:
    """Gives logits (B, C) for RGB (B, 3, H, W) in 0..255.

    It is not an nn.Module, so that checkpoints leave it out, and copies of a task share it.
    """

    def __init__(self, logits: Logits, network: nn.Module | None = None) -> None:
        self.logits, self.network = logits, network
        if network is not None:
            network.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def __deepcopy__(self, _: dict[int, Any]) -> "Teacher":
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        if self.network is not None:
            self.network.to(images.device)
        return self.logits(images)


def load_teacher(source: str, labels: Sequence[str], student: Classifier) -> Teacher:
    """A teacher for these classes, in this order: an .onnx file, a checkpoint or run folder of ours, or a timm name.

    Raises:
        UserError: it cannot be had, or knows other classes.
    """
    if source.endswith(".onnx"):
        teacher = _from_onnx(Path(source), student)
    elif Path(source).exists() or source.endswith(".ckpt"):
        teacher = _from_checkpoint(source, labels)
    else:
        teacher = _from_timm(source)
    side = 224
    classes = teacher(torch.zeros(1, 3, side, side)).shape[1]
    if classes != len(labels):
        raise UserError(f"teacher={source} knows {classes} classes, the data has {len(labels)}")
    return teacher


def _from_checkpoint(source: str, labels: Sequence[str]) -> Teacher:
    from tasks.checkpoint import load_checkpoint, restore

    module = restore(load_checkpoint(source))
    network = module.model
    if not isinstance(network, Classifier):
        raise UserError(f"teacher={source} is of task={module.config['task']['name']}, which does not classify")
    if module.labels != list(labels):
        raise UserError(f"teacher={source} knows the classes {module.labels}, the data has {list(labels)}")
    return Teacher(lambda images: network(network.preprocess(images)), network)


def _from_timm(name: str) -> Teacher:
    import timm

    if not timm.is_model(name):
        raise UserError(f"teacher={name} is neither a file, a run folder nor a network that timm knows")
    try:
        network = timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"teacher={name}: its weights cannot be had: {str(error).splitlines()[0]}") from error
    settings = timm.data.resolve_model_data_config(network)
    side = settings["input_size"][-1]
    mean, std = (torch.tensor(settings[k]).view(3, 1, 1) * 255 for k in ("mean", "std"))

    def logits(images: Tensor) -> Tensor:
        pixels = _resized(images.float(), side)
        return network((pixels - mean.to(pixels.device)) / std.to(pixels.device))

    return Teacher(logits, network)


def _from_onnx(path: Path, student: Classifier) -> Teacher:
    """A uint8 input takes the pixels as they are, a float one the student's normalization."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"teacher={path}: install onnxruntime to learn from an onnx file") from error
    if not path.is_file():
        raise UserError(f"teacher={path}: there is no such file")
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no other base
        raise UserError(f"teacher={path} cannot be read: {str(error).splitlines()[0]}") from error
    (slot, *others) = session.get_inputs()
    if others or len(slot.shape) != 4:
        raise UserError(f"teacher={path} should take one batch of pictures, not {[i.shape for i in (slot, *others)]}")
    channels_first, as_bytes = slot.shape[1] == 3, slot.type == "tensor(uint8)"
    side, fixed = slot.shape[2], slot.shape[0]

    def logits(images: Tensor) -> Tensor:
        pixels = _resized(images.float(), side) if isinstance(side, int) else images.float()
        pixels = pixels.round().to(torch.uint8) if as_bytes else student.preprocess(pixels)
        pixels = pixels if channels_first else pixels.permute(0, 2, 3, 1)
        array = np.ascontiguousarray(pixels.cpu().numpy())
        chunks = np.split(array, len(array) // fixed) if isinstance(fixed, int) else [array]
        rows = [session.run(None, {slot.name: chunk})[0] for chunk in chunks]
        return torch.from_numpy(np.concatenate(rows)).to(images.device)

    return Teacher(logits)


def _resized(images: Tensor, side: int) -> Tensor:
    if images.shape[-1] == side:
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True)
