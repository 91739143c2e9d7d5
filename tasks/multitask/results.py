"""The results of several tasks for one image."""

import math
from functools import cached_property
from typing import Any

from PIL import Image

from tasks.engine.names import labels_of
from tasks.engine.options import result_type
from tasks.engine.results import Outputs, Result, Size


def together(outputs: Outputs, spec: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Each task's result from its outputs, which are named <task>.<output>."""
    found = {}
    for task, part in spec["parts"].items():
        own = {name.removeprefix(f"{task}."): x for name, x in outputs.items() if name.startswith(f"{task}.")}
        # in an export's example.py, which has the source of this function beside the tasks' own
        found[task] = globals()[part["answer"]](own, {**spec, **part}, size)
    return found


class JointResult(Result):
    """The results of all tasks for an image: `parts` has them by name."""

    to_plain = staticmethod(together)

    @classmethod
    def from_outputs(cls, outputs: Outputs, spec: dict[str, Any], size: Size) -> dict[str, Any]:
        found = {}
        for task, part in spec["parts"].items():
            own = {name.removeprefix(f"{task}."): x for name, x in outputs.items() if name.startswith(f"{task}.")}
            found[task] = result_type(task).from_outputs(own, spec | part, size)
        return found

    @cached_property
    def parts(self) -> dict[str, Result]:
        return {
            task: result_type(task)(plain, self.source, labels_of(self.class_names, task))
            for task, plain in self.plain.items()
        }

    def annotate(self, image: Image.Image) -> Image.Image:
        """The image once per task with its result, in rows, as the drawings of some tasks would overlap."""
        drawn = [result.annotate(image) for result in self.parts.values()]
        columns = math.ceil(math.sqrt(len(drawn)))
        width, height = (max(side) for side in zip(*(picture.size for picture in drawn), strict=True))
        canvas = Image.new("RGB", (columns * width, math.ceil(len(drawn) / columns) * height), "white")
        for i, picture in enumerate(drawn):
            canvas.paste(picture, (i % columns * width, i // columns * height))
        return canvas

    def describe(self) -> str | None:
        words = {task: result.describe() for task, result in self.parts.items()}
        return "; ".join(f"{task}: {text}" for task, text in words.items() if text) or None
