"""Predicts with a checkpoint, in PyTorch."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbones.errors import UserError
from data.image_file import Pixels
from data.inputs import ImageInput
from tasks.engine.checkpoint import load_checkpoint, part_checkpoint
from tasks.engine.multitask_config import JOINT
from tasks.engine.options import result_type
from tasks.engine.results import Size
from tasks.engine.task import restore
from tasks.inference.predictor import Predictor, check_threshold


class CheckpointPredictor(Predictor):
    """The best checkpoint of a run, or a checkpoint file, on the GPU if there is one."""

    def __init__(self, checkpoint: dict[str, Any], threshold: float | None) -> None:
        self.module = restore(checkpoint)
        settings = self.module.config["task"]
        if threshold is not None:
            settings["draw_threshold"] = threshold
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.module.to(self.device)
        self.task, self.class_names, self.result_type = settings["name"], self.module.labels, self.module.result_type
        self.view_side = self.module.view_side

    def view(self, pixels: Pixels) -> Tensor:
        # copied: a caller may reuse the array before the batch is full, and torch rejects some views
        pixels = np.array(pixels, order="C")
        return self.module.prepare_image(torch.from_numpy(pixels).permute(2, 0, 1))

    @torch.inference_mode()
    def predict_batch(self, views: list[Tensor], sizes: list[Size]) -> list[dict[str, Any]]:
        images = torch.stack(views).to(self.device)
        return self.module.predict(images, torch.tensor(sizes, device=self.device))


class JointPredictor(Predictor):
    """The models of several tasks, which all run on every image; it is decoded once."""

    def __init__(self, parts: dict[str, CheckpointPredictor]) -> None:
        self.parts, self.task, self.result_type = parts, JOINT, result_type(JOINT)
        self.class_names = [f"{name}/{label}" for name, part in parts.items() for label in part.class_names]
        self.view_side = max(part.view_side for part in parts.values())

    def view(self, pixels: Pixels) -> list[Tensor]:
        return [part.view(pixels) for part in self.parts.values()]

    def predict_batch(self, views: list[list[Tensor]], sizes: list[Size]) -> list[dict[str, Any]]:
        own = [part.predict_batch([view[i] for view in views], sizes) for i, part in enumerate(self.parts.values())]
        return [dict(zip(self.parts, rows, strict=True)) for rows in zip(*own, strict=True)]

    def set_references(self, images: Iterable[ImageInput]) -> None:
        raise UserError("reference is for task=embedding; export that task of the run and use its export")


def open_checkpoint(path: Path, threshold: float | None, only: Sequence[str] | None) -> Predictor:
    """The model of a run's best checkpoint, or of a checkpoint file; of a multi-task run, the tasks named in `only`.

    Raises:
        UserError: it cannot be used, or has no such tasks.
    """
    checkpoint = load_checkpoint(path)
    tasks = list(checkpoint["suite"].get("config", {}).get("parts", ()))
    if only is not None and not tasks:
        raise UserError(f"only={','.join(only)} is for multi-task runs; {path} has one task")
    check_threshold(threshold, only or tasks or [checkpoint["suite"]["task"]])
    if not tasks:
        return CheckpointPredictor(checkpoint, threshold)
    return JointPredictor({n: CheckpointPredictor(part_checkpoint(checkpoint, n), threshold) for n in only or tasks})
