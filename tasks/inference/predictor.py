"""What a checkpoint and an exported file have in common: images in, results out, in batches."""

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from backbones.errors import UserError
from data.image_file import BadImage, Pixels
from data.inputs import ImageInput, read_input
from tasks.engine.answers import Result, Size

log = logging.getLogger(__name__)


class Predictor(ABC):
    """A trained model: `task`, the `class_names` that it knows, and `predict`."""

    task: str
    class_names: list[str]
    result_type: type[Result]
    view_side: int  # pixels that the shorter side of a decoded image must have

    def predict(
        self, images: ImageInput | Iterable[ImageInput], *, batch_size: int = 16, skip_unreadable: bool = False
    ) -> Iterator[Result]:
        """A result for each image, in order, while they are asked for: `list(...)` gives all.

        An image is a file name, an RGB array (H, W, 3) uint8 or a PIL image; sizes may differ. Files and PIL images are
        turned as their EXIF orientation says. An image that cannot be read ends it, or with `skip_unreadable` is named
        in a warning and has no result.

        Raises:
            UserError: an image cannot be read, or is none.
        """
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size} must be at least 1")
        if isinstance(images, str | os.PathLike | np.ndarray | Image.Image):
            images = [images]
        return self._results(self._read(images, skip_unreadable), batch_size)

    def _results(self, images: Iterator[tuple[ImageInput, Any, Size]], batch_size: int) -> Iterator[Result]:
        while batch := list(islice(images, batch_size)):
            sources, views, sizes = zip(*batch, strict=True)
            for source, answer in zip(sources, self.answers(list(views), list(sizes)), strict=True):
                yield self.result_type(answer, source, self.class_names)

    def _read(self, images: Iterable[ImageInput], skip_unreadable: bool) -> Iterator[tuple[ImageInput, Any, Size]]:
        for number, source in enumerate(images, start=1):
            try:
                pixels, size = read_input(source, self.view_side, f"image {number}")
            except BadImage as error:
                if not skip_unreadable:
                    raise UserError("{}: {}".format(*error.args)) from error
                log.warning("skipped %s: %s", *error.args)
                continue
            yield source, self.view(pixels), size

    @abstractmethod
    def view(self, pixels: Pixels) -> Any:
        """What the model sees of a decoded image (H, W, 3)."""

    @abstractmethod
    def answers(self, views: list[Any], sizes: list[Size]) -> list[dict[str, Any]]:
        """The plain values for a batch of views of images of these (height, width)."""
