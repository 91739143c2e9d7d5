"""Checkpoints as safetensors, for use in this suite; and backbones, from which another task can start."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tasks.engine.model import Model
from tasks.export.graph import Graph, Job, Layout

EXAMPLE = """
def run(pixels: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    from tasks.export.to_torch import Runner

    return Runner(FOLDER / SPEC["file"])(pixels)
"""


def write(job: Job) -> None:
    write_checkpoint(job.checkpoint, job.graph.layout, job.path)


def write_checkpoint(checkpoint: Mapping[str, Any], layout: Layout, path: Path) -> None:
    """Writes the checkpoint's weights; its other contents, and the layout of the input, go into the file's header."""
    save(checkpoint["state_dict"], path, {"suite": json.dumps(checkpoint["suite"]), "input": layout})


def write_backbone(checkpoint: dict[str, Any], path: Path) -> None:
    """Writes the weights of the backbone, and with them the settings that rebuild it."""
    state = {k: v for k, v in checkpoint["state_dict"].items() if k.startswith("model.backbone.")}
    suite = checkpoint["suite"]
    kept = {"version": suite["version"], "task": "backbone", "backbone": suite["backbone"]}
    save(state, path, {"suite": json.dumps(kept)})


def save(state: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Writes tensors, one with several names only once; the header's `same` maps its other names to the stored one."""
    places: dict[tuple[object, ...], str] = {}
    owners = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr() or name, tensor.dtype, tensor.shape, tensor.stride())
        owners[name] = places.setdefault(place, name)
    same = {name: owner for name, owner in owners.items() if name != owner}
    metadata = metadata | ({"same": json.dumps(same)} if same else {})
    save_file({name: tensor.contiguous() for name, tensor in state.items() if name not in same}, path, metadata)


class Network:
    """A network, as PyTorch runs it."""

    def __init__(self, model: Model, layout: Layout) -> None:
        self.graph = Graph(model, layout, with_nms=True)

    @torch.inference_mode()
    def __call__(self, images: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        return [tensor.numpy() for tensor in self.graph(torch.from_numpy(images))]


class Runner(Network):
    """The network of a file. It runs on the process's threads, whose number is not one network's to change."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        from tasks.engine.checkpoint import load_checkpoint
        from tasks.engine.task import restore

        checkpoint = load_checkpoint(path)  # before the next line, which would wait for a pipe
        with safe_open(path, "pt") as file:
            layout = file.metadata()["input"]
        super().__init__(restore(checkpoint).model, layout)
