"""Finds, reads and restores checkpoints."""

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from backbones.errors import UserError
from backbones.mobilenet_v1 import fold_norms
from tasks.base import CHECKPOINT_VERSION, TaskModule, locate

log = logging.getLogger(__name__)


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint file that a path names: itself, or the best one of a run folder.

    Raises:
        UserError: there is none.
    """
    path = Path(path)
    candidates = (
        [path]
        if not path.is_dir()
        else [
            *(path / "checkpoints" / f"{n}.ckpt" for n in ("best", "last")),
            path / "model.safetensors",
        ]
    )
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UserError(f"there is no checkpoint {' or '.join(map(str, candidates))}")


def load_checkpoint(path: str | Path, task: str | None = None) -> dict[str, Any]:
    """The content of a checkpoint; only tensors and plain values are read, so a stranger's file is safe to open.

    Raises:
        UserError: it is absent, damaged, not of this suite, newer than this code, or of another task than `task`.
    """
    path = find_checkpoint(path)
    try:
        if path.suffix == ".safetensors":
            content = read_safetensors(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise UserError(f"checkpoint {path} cannot be read: {str(error).splitlines()[0]}") from error
    suite = content.get("suite") if isinstance(content, dict) else None
    if suite is None:
        raise UserError(f"{path} is not a checkpoint of this suite")
    if suite["version"] > CHECKPOINT_VERSION:
        raise UserError(f"{path} was written by a newer version of this suite; update to read it")
    if task not in (None, suite["task"]):
        raise UserError(f"{path} is a checkpoint of task={suite['task']}, not of task={task}")
    return content


def read_safetensors(path: Path) -> dict[str, Any]:
    """A checkpoint that was exported by format=torch."""
    with safe_open(path, "pt") as file:
        suite = (file.metadata() or {}).get("suite")
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    return {"suite": json.loads(suite), "state_dict": state} if suite else {}


def restore(checkpoint: dict[str, Any]) -> TaskModule:
    """The task of a checkpoint with its (averaged) weights, ready to predict (and no longer to train).

    Raises:
        UserError: it holds a backbone alone.
    """
    suite = checkpoint["suite"]
    if suite["task"] == "backbone":
        raise UserError("the file holds a backbone alone; start a task from it by backbone.weights=<file>")
    module = locate(suite["config"]["task"])(suite["config"], suite["labels"], load_weights=False)
    module.load_state_dict(checkpoint["state_dict"])
    fold_norms(module.model)
    return module.eval()


def start_from(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Copies every tensor of `state` that fits into the module, and says which of the module's stay fresh.

    Raises:
        UserError: nothing fits.
    """
    own = module.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    if not fitting:
        raise UserError(f"ckpt={source}: none of its tensors fits this model")
    module.load_state_dict(fitting, strict=False)
    fresh = []
    for name in sorted(own.keys() - fitting.keys()):
        if name in state:
            fresh.append(f"{name}, {tuple(own[name].shape)} here and {tuple(state[name].shape)} there")
        elif not name.endswith("num_batches_tracked"):
            fresh.append(name)
    if fresh:
        log.warning("ckpt=%s: %d tensors do not fit and start fresh: %s", source, len(fresh), "; ".join(fresh))
