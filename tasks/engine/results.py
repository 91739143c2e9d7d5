"""Turns a network's outputs into results: plain values, typed views of them, and drawings. Nothing here needs torch.

A task whose results are more than its outputs by name has its own class, in the results.py of its folder; its option
in conf/task names that class as `_result_`. As results.py needs no torch, an exported file gives the same results as
its checkpoint.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from backbones.errors import UserError
from data.image_file import BadImage
from data.inputs import ImageInput, read_input
from tasks.engine.drawing import captioned

Outputs = dict[str, npt.NDArray[Any]]
Size = tuple[int, int]  # height and width in pixels
SHOWN = 12  # numbers that are drawn


def values(outputs: Outputs, spec: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Every output by its name."""
    rounded = {name: np.round(value.astype(float), 5) for name, value in outputs.items()}
    return {name: value.item() if value.size == 1 else value.tolist() for name, value in rounded.items()}


@dataclass(frozen=True, eq=False)
class Result:
    """A model's result for one image.

    `to_plain` turns one image's outputs by name into plain values, given the content of model.json and the image's
    (height, width); it and its `helpers` use numpy alone, for their source is copied into an export's example.py.
    """

    plain: dict[str, Any]
    source: ImageInput = field(repr=False)  # the image as it was given
    class_names: Sequence[str] = field(repr=False)  # that the model knows

    to_plain = staticmethod(values)
    helpers: ClassVar[tuple[Callable[..., Any], ...]] = ()
    hub_task: ClassVar[str] = ""  # what the Hugging Face Hub calls the task; empty where it has no name for it
    responsible_use: ClassVar[str] = ""  # what a model card says of this task
    classes_are_places: ClassVar[bool] = False  # cells of the Earth, whose names a model card leaves out
    compares: ClassVar[bool] = False  # whether it has an `embedding` (D,) of length 1 that images are compared by

    @classmethod
    def from_outputs(cls, outputs: Outputs, spec: dict[str, Any], size: Size) -> dict[str, Any]:
        """The plain values for one image: those of `to_plain`, and others that only this suite adds."""
        return cls.to_plain(outputs, spec, size)

    if TYPE_CHECKING:  # type checkers cannot know which subclass `load` leads to, nor its attributes

        def __getattr__(self, name: str) -> Any: ...

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a line of predictions.jsonl has them."""
        return copy.deepcopy(self.plain)

    def draw(self) -> Image.Image:
        """The image, upright and at its own size, with the result drawn on it. A file is read again.

        Raises:
            UserError: the file can no longer be read.
        """
        try:
            pixels, _ = read_input(self.source)
        except BadImage as error:
            raise UserError("{}: {}".format(*error.args)) from error
        return self.annotate(Image.fromarray(pixels))

    def annotate(self, image: Image.Image) -> Image.Image:
        """The result drawn on a copy of an RGB image."""
        numbers = [(name, value) for name, value in self.plain.items() if isinstance(value, int | float)]
        return captioned(image, [f"{name} {value:.4g}" for name, value in numbers[:SHOWN]])

    def describe(self) -> str | None:
        """The result on one line; None if the drawn image says everything."""
        return None


class Scored(Result):
    """Base of results that are a list of names with scores, best first, called `key` in the plain values."""

    key: ClassVar[str]

    @property
    def labels(self) -> list[str]:
        """Names of classes, best first."""
        return [row["label"] for row in self.plain[self.key]]

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """Scores (N,) from 0 to 1, in descending order."""
        return np.array([row["score"] for row in self.plain[self.key]], np.float32)

    def lines(self) -> list[str]:
        """Each name with its score; ground truth has none."""
        return [f"{r['label']} {r['score']:.2f}" if "score" in r else r["label"] for r in self.plain[self.key]]
