"""Predicts with a checkpoint, by PyTorch."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.image_file import Pixels
from tasks.engine.answers import Size
from tasks.engine.checkpoint import load_checkpoint
from tasks.engine.task import restore
from tasks.inference.predictor import Predictor


class CheckpointModel(Predictor):
    """The best checkpoint of a run, or a checkpoint file, on the GPU if there is one."""

    def __init__(self, path: Path, threshold: float | None) -> None:
        self.module = restore(load_checkpoint(path))
        settings = self.module.config["task"]
        if threshold is not None:
            settings["draw_threshold"] = threshold
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.module.to(self.device)
        self.task, self.class_names, self.result_type = settings["name"], self.module.labels, self.module.result_type
        self.view_side = self.module.view_side

    def view(self, pixels: Pixels) -> Tensor:
        pixels = np.require(pixels, requirements=["C", "W"])  # a caller's may be a view that torch does not take
        return self.module.prepare_image(torch.from_numpy(pixels).permute(2, 0, 1))

    @torch.inference_mode()
    def answers(self, views: list[Tensor], sizes: list[Size]) -> list[dict[str, Any]]:
        images = torch.stack(views).to(self.device)
        return self.module.predict(images, torch.tensor(sizes, device=self.device))
