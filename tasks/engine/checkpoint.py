"""Finds, reads and restores checkpoints."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from backbones.base import Normalization, scaled_resolution
from backbones.errors import UserError
from backbones.weights import is_stored, load_plain, reading
from tasks.engine.config import saved_config
from tasks.engine.multitask_config import input_side, tasks_of
from tasks.engine.names import labels_of, metrics_of

log = logging.getLogger(__name__)

CHECKPOINT_VERSION = 2


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


def run_of(checkpoint: Path) -> Path:
    """The run folder of a checkpoint file; the folder of a file that is not in one."""
    folder = checkpoint.parent
    return folder.parent if folder.name == "checkpoints" else folder


def load_checkpoint(path: str | Path, task: str | None = None) -> dict[str, Any]:
    """The content of a checkpoint: `state_dict`, and `suite` with task, config, labels, resolution, backbone (the
    values chosen for settings that were null) and metrics. It is not trusted: only tensors and plain values are read,
    and all of `suite` is checked; its settings name options, whose meaning is read from this machine's conf/.

    Raises:
        UserError: it is absent, damaged, not of this suite or version, or of another task than `task`.
    """
    path = find_checkpoint(path)
    content = read_content(path)
    suite = content.get("suite") if isinstance(content, dict) else None
    if not isinstance(suite, dict) or type(suite.get("version")) is not int:
        raise UserError(f"{path} is not a checkpoint of this suite")
    name = suite.get("task")
    if suite["version"] > CHECKPOINT_VERSION:
        raise UserError(f"{path} was written by a newer version of this suite; update to read it")
    if suite["version"] < CHECKPOINT_VERSION:
        raise UserError(f"{path} was written by an older version of this suite, which cannot be read; train again")
    if not isinstance(name, str) or not name.isidentifier():
        raise UserError(f"{path} is damaged: it does not name its task")
    if task not in (None, name):
        raise UserError(f"{path} is a checkpoint of task={name:.40}, not of task={task}")
    state, size = content.get("state_dict"), path.stat().st_size
    if not isinstance(state, dict) or not all(is_stored(name, value, size) for name, value in state.items()):
        raise UserError(f"{path} is damaged: its weights are not named tensors")
    return content | {"suite": checked_suite(suite, path)}


def part_checkpoint(checkpoint: Mapping[str, Any], name: str) -> dict[str, Any]:
    """One task of a multi-task checkpoint, as a checkpoint of that task's own run.

    Raises:
        UserError: the run has no such task.
    """
    suite = checkpoint["suite"]
    parts = suite.get("config", {}).get("parts", {})
    if name not in parts:
        raise UserError(f"the run has no task {name!r:.40}" + (f"; its tasks are {', '.join(parts)}" if parts else ""))
    metrics, labels = metrics_of(suite["metrics"], name), labels_of(suite["labels"], name)
    config = parts[name]
    side = scaled_resolution(config["task"]["resolution"], config["backbone"]["rho"])
    kept = {"task": name, "config": config, "labels": labels, "metrics": metrics, "resolution": side}
    prefix = f"parts.{name}."
    state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    return {"state_dict": state, "suite": dict(suite) | kept}


def read_content(path: Path) -> Any:
    """The unchecked content of a checkpoint file: tensors and plain values."""
    with reading(f"checkpoint {path}", "not a checkpoint"):
        return load_plain(path)


def checked_suite(suite: dict[str, Any], path: Path) -> dict[str, Any]:
    """A checkpoint's description of itself, with the type of each entry checked.

    Raises:
        UserError: an entry has a wrong type or value.
    """
    checked = {"version": suite["version"], "task": suite["task"]}
    if checked["task"] == "backbone":
        return checked
    config = saved_config(suite.get("config"), path)
    labels, metrics = suite.get("labels"), suite.get("metrics")
    if not isinstance(labels, list) or not all(type(label) is str for label in labels):
        raise UserError(f"{path} is damaged: its labels are not a list of names")
    if not isinstance(metrics, dict) or not all(type(k) is str and _is_number(v) for k, v in metrics.items()):
        raise UserError(f"{path} is damaged: its metrics are not numbers")
    if checked["task"] != config["task"]["name"]:
        raise UserError(f"{path} is damaged: it names two tasks, {checked['task']:.40} and {config['task']['name']}")
    resolution = scaled_resolution(input_side(config), config["backbone"]["rho"])
    return checked | {
        "config": config,
        "labels": labels,
        "resolution": resolution,
        "backbone": checked_backbone(suite.get("backbone"), config, path),
        "metrics": metrics,
    }


def _is_number(value: Any) -> bool:
    """Whether a value can be printed as a float."""
    return type(value) is float or (type(value) is int and value.bit_length() <= 64)


def checked_backbone(resolved: Any, config: dict[str, Any], path: Path) -> dict[str, Any]:
    """The values chosen for a backbone's settings left null, and its normalization, checked."""
    try:
        normalization = Normalization.of(resolved["normalization"])
        chosen = {k: v for k, v in resolved.items() if k != "normalization"}
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is damaged: the normalization of its backbone is missing") from error
    task = next(iter(tasks_of(config).values()))  # any, as all have the same backbone
    saved_config(task | {"backbone": config["backbone"] | chosen}, path)
    return chosen | {"normalization": [list(row) for row in normalization]}


def resolved_settings(path: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The values that the backbone of a checkpoint chose for null settings; none if `config` has another backbone.

    Raises:
        UserError: the file cannot be read.
    """
    suite = load_checkpoint(path)["suite"]
    if "config" not in suite:  # only a backbone, which is refused when its weights are read
        return {}
    own, theirs = ((c["groups"]["backbone"], c["backbone"].get("name")) for c in (config, suite["config"]))
    return dict(suite["backbone"]) if own == theirs else {}


def with_own_layers(
    module: nn.Module, layers: Sequence[nn.Module], state: dict[str, Tensor], source: str
) -> dict[str, Tensor]:
    """`state` with the module's own tensors in its class `layers`; a log line names them."""
    prefixes = [name for name, layer in module.named_modules() if layer in layers]
    own = {k: v for k, v in module.state_dict().items() if k in state and k.rpartition(".")[0] in prefixes}
    if own:
        words = "ckpt=%s: its classes, or their order, are not those of the data; these keep their initial values: %s"
        log.warning(words, source, ", ".join(own))
    return state | own


def load_matching_weights(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Copies every tensor of `state` that fits into the module, and logs which tensors keep their initial values.

    Raises:
        UserError: nothing fits, or nothing of the backbone, which would still be trained as a pretrained one.
    """
    own = module.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    if not fitting:
        raise UserError(f"ckpt={source}: none of its tensors fits this model")
    kernels = {k for k, v in own.items() if "backbone." in k and v.ndim > 1}
    if kernels and not kernels & fitting.keys():
        raise UserError(f"ckpt={source}: its backbone differs; give the same backbone settings")
    module.load_state_dict(fitting, strict=False)
    fresh = []
    for name in sorted(own.keys() - fitting.keys()):
        if name in state:
            fresh.append(f"{name}, {tuple(own[name].shape)} here and {tuple(state[name].shape)} there")
        elif not name.endswith("num_batches_tracked"):
            fresh.append(name)
    if fresh:
        words = "ckpt=%s: %d tensors do not fit and keep their initial values: %s"
        log.warning(words, source, len(fresh), "; ".join(fresh))
