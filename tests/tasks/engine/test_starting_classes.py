"""What a run takes from the checkpoint of a run on other classes."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.engine.checkpoint import load_matching_weights
from tasks.engine.multitask_config import compose_config
from tasks.engine.options import locate
from tasks.engine.task import TaskModule

SMALL = ("backbone.alpha=0.25", "backbone.pretrained=false", "backbone.variant=shallow")
TASKS = (
    *("task=classification", "task=faces", "task=geo", "task=embedding task.loss=cosface", "task=embedding"),
    *(
        f"task=detection task.resolution=64 detector={name}"
        for name in ("pan", "ssd", "ssdlite", "ssd_fpn", "faster_rcnn")
    ),
)
LABELS = ["cat", "dog", "emu"]


def build(given: str, labels: list[str], seed: int = 0) -> TaskModule:
    torch.manual_seed(seed)
    config, _ = compose_config([*given.split(), *SMALL])
    module: TaskModule = locate(config, "task")(config, labels)
    return module


def started(module: TaskModule, old: TaskModule, path: Path) -> tuple[dict[str, Tensor], set[str]]:
    """The tensors of `module` with which it starts from a checkpoint of `old`, and which of them are not from it."""
    content: dict[str, Any] = {"state_dict": old.state_dict()}
    old.on_save_checkpoint(content)
    torch.save(content, path)
    load_matching_weights(module, module.load_initial_weights(str(path)), "old")
    state = module.state_dict()
    theirs = content["state_dict"]
    return state, {k for k, v in state.items() if v.is_floating_point() and v.ndim > 1 and not v.equal(theirs[k])}


@pytest.mark.parametrize("given", TASKS)
def test_outputs_for_classes_are_only_for_the_same_ones(
    given: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Those tensors are fresh, and named, whose shapes depend on the number of classes."""
    caplog.set_level(logging.WARNING)
    old, more = build(given, LABELS), build(given, [*LABELS, "fox"]).state_dict()
    depend = {k for k, v in old.state_dict().items() if v.shape != more[k].shape}
    caplog.clear()
    _, fresh = started(build(given, LABELS, seed=1), old, tmp_path / "same.ckpt")
    assert not fresh
    assert not caplog.records
    for labels in (["dog", "cat", "emu"], [*LABELS, "fox"]):
        module = build(given, labels, seed=1)
        initial = {k: module.state_dict()[k].clone() for k in depend}
        caplog.clear()
        state, fresh = started(module, old, tmp_path / "other.ckpt")
        assert fresh <= depend
        assert all(state[k].equal(value) for k, value in initial.items())
        assert [record.getMessage().count("keep their initial values") for record in caplog.records] == [1] * bool(
            depend
        )
        assert all(name in caplog.text for name in depend)


def test_cells_are_the_same_wherever_their_photos_are(tmp_path: Path) -> None:
    """A cell's label has the mean position of its photos, which on other photos is another one."""
    cells = ["0/4a47 50.1 20.2", "0/8085 37.5 -122.0"]
    old = build("task=geo", cells)
    moved, others = (["0/4a47 50.3 20.1", cells[1]], cells[::-1])
    assert not started(build("task=geo", moved, 1), old, tmp_path / "moved.ckpt")[1]
    assert started(build("task=geo", others, 1), old, tmp_path / "others.ckpt")[1] == {"model.head.weight"}


def test_each_part_of_a_multi_task_run_keeps_its_own_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = "task=multitask multitask.tasks=[classification,faces]"
    labels = [f"{name}/{label}" for name in ("classification", "faces") for label in LABELS]
    swapped = [*labels[:3], *labels[:2:-1]]
    old = build(given, labels)
    assert not started(build(given, labels, 1), old, tmp_path / "same.ckpt")[1]
    caplog.clear()
    fresh = started(build(given, swapped, 1), old, tmp_path / "swapped.ckpt")[1]
    assert fresh == {"parts.faces.model.head.weight"}
    assert "swapped.ckpt, faces: its classes, or their order" in caplog.text
