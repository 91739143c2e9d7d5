"""Predicts with an exported file, in its own runtime and with numpy.

The folder is not trusted: only its model file and its checked model.json are used, this machine's conf/ says what the
outputs mean, and example.py is never executed.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from backbones.errors import UserError, first_line
from backbones.processors import usable_cores
from data.boxes import center_box
from data.image_file import Pixels
from tasks.engine.options import result_type
from tasks.engine.results import Size
from tasks.export.formats import FORMATS
from tasks.inference.predictor import Predictor, check_threshold


class ExportedPredictor(Predictor):
    """The file in an export's folder."""

    def __init__(self, folder: Path, spec: dict[str, Any], threshold: float | None) -> None:
        """`spec` is the content of model.json, checked."""
        check_threshold(threshold, [*spec["parts"]] or [spec["task"]])
        if threshold is not None:
            for own in (spec, *spec["parts"].values()):  # parts: tasks of a multi-task file
                own["postprocess"]["draw_threshold"] = threshold
        self.folder, self.spec = folder, spec
        self.task, self.class_names, self.result_type = spec["task"], spec["labels"], result_type(spec["task"])
        self.resolution, self.center_crop = spec["input"]["size"], spec["input"].get("center_crop")
        self.view_side = math.ceil(self.resolution / (self.center_crop or 1))
        self.run = FORMATS[spec["format"]].runner(folder / spec["file"], usable_cores())

    def view(self, pixels: Pixels) -> Pixels:
        image = Image.fromarray(pixels)
        box = (0.0, 0.0, float(image.width), float(image.height))
        if self.center_crop:
            box = center_box(image.height, image.width, fraction=self.center_crop)
        left, top, right, bottom = map(round, box)
        part = image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
        return np.asarray(part.resize((self.resolution, self.resolution), Image.Resampling.BILINEAR))

    def predict_batch(self, views: list[Pixels], sizes: list[Size]) -> list[dict[str, Any]]:
        images: npt.NDArray[Any] = np.stack(views)
        if self.spec["input"]["layout"] == "float_nchw":
            images = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32)
        names = [output["name"] for output in self.spec["outputs"]]
        try:
            outputs = dict(zip(names, self.run(images), strict=True))
            return [
                self.result_type.from_outputs({name: value[i] for name, value in outputs.items()}, self.spec, size)
                for i, size in enumerate(sizes)
            ]
        except Exception as error:  # each runtime raises its own kinds; or the outputs differ from model.json
            raise UserError(
                f"{self.folder}: the model file and model.json do not fit: {first_line(error):.200}"
            ) from error
