"""The common interface of checkpoints and exported files: images in, results out, in batches."""

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from backbones.errors import UserError
from backbones.processors import usable_cores
from data.image_file import BadImage, Pixels
from data.inputs import ImageInput, read_input
from tasks.engine.config import options
from tasks.engine.options import reports_scores
from tasks.engine.results import Result, Size
from tasks.inference.prefetch import prefetch

log = logging.getLogger(__name__)

IN_MEMORY = (np.ndarray, Image.Image)
MATCHES = 5  # references that are reported
BATCH = 16


def check_threshold(threshold: float | None, tasks: Collection[str]) -> None:
    """Raises UserError if a threshold is given, and none of the model's tasks has scores to compare with it."""
    if threshold is not None and not any(map(reports_scores, tasks)):
        known = ", ".join(filter(reports_scores, options("task")))
        raise UserError(f"threshold={threshold} has no effect on task={','.join(tasks)}; it is for {known}")


class Decoded(NamedTuple):
    """An image that was read and prepared."""

    name: str
    source: ImageInput
    view: Any  # the model's input
    size: Size


class Predictor(ABC):
    """A trained model: `task`, the `class_names` that it knows, and `predict`."""

    task: str
    class_names: list[str]
    result_type: type[Result]
    view_side: int  # a JPEG may be decoded at a smaller scale, with sides of at least so many pixels
    references: tuple[list[str], npt.NDArray[np.float32]] | None = None  # names, and unit vectors (N, D)

    def predict(
        self, images: ImageInput | Iterable[ImageInput], *, batch_size: int = BATCH, skip_unreadable: bool = False
    ) -> Iterator[Result]:
        """Yields the result of each image, in order; `list(...)` computes all. More than a batch of `images` is read
        ahead.

        An image is a file name, an RGB array (H, W, 3) uint8 or a PIL image; sizes may differ. Files and PIL images are
        rotated by their EXIF orientation. An image that cannot be read raises an error or, with `skip_unreadable`, is
        named in a warning and has no result.

        Raises:
            UserError: an image cannot be read, or is not an image.
        """
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size} must be at least 1")
        if isinstance(images, (str, os.PathLike, *IN_MEMORY)):
            images = [images]
        if not isinstance(images, Iterable):
            raise UserError(f"give an image or several, not {type(images).__name__}")
        return (result for _, result in self._results(self._read(images, skip_unreadable, batch_size), batch_size))

    def set_references(self, images: Iterable[ImageInput]) -> None:
        """Sets reference images; later results list the most similar ones as `matches`. Unreadable images are
        skipped.

        Raises:
            UserError: none can be read, or the task does not compare images.
        """
        if not self.result_type.compares:
            raise UserError(f"task={self.task} does not compare images; leave out reference")
        self.references = None
        rows = [(name, result.embedding) for name, result in self._results(self._read(images, True, BATCH), BATCH)]
        if not rows:
            raise UserError("reference: none of these images can be read")
        names, vectors = zip(*rows, strict=True)
        self.references = list(names), np.stack(vectors)

    def _matches(self, embedding: npt.NDArray[np.float32]) -> list[dict[str, Any]]:
        assert self.references
        names, known = self.references
        cosine = known @ embedding
        best = np.argsort(-cosine, kind="stable")[:MATCHES].tolist()
        return [{"file": names[i], "similarity": round(float(cosine[i]), 4)} for i in best]

    def _results(self, images: Iterator[Decoded], batch_size: int) -> Iterator[tuple[str, Any]]:
        """The name and the result of each image."""
        while batch := list(islice(images, batch_size)):
            rows = self.predict_batch([image.view for image in batch], [image.size for image in batch])
            for image, plain in zip(batch, rows, strict=True):
                result: Any = self.result_type(plain, image.source, self.class_names)
                if self.references:
                    plain["matches"] = self._matches(result.embedding)
                yield image.name, result

    def _read(self, images: Iterable[ImageInput], skip_unreadable: bool, batch_size: int) -> Iterator[Decoded]:
        """The images; threads decode files while the model runs on earlier images."""
        threads = usable_cores()
        numbered = enumerate(images, start=1)
        # arrays are decoded at once: the caller may change one as soon as the next image is requested
        items = (self._decode(*pair) if isinstance(pair[1], IN_MEMORY) else pair for pair in numbered)
        for found in prefetch(self._decoded, items, threads, batch_size + 2 * threads):
            if isinstance(found, Decoded):
                yield found
            elif isinstance(found, UserError):
                raise found
            elif skip_unreadable:
                log.warning("skipped %s: %s", *found.args)
            else:
                raise UserError("{}: {}".format(*found.args)) from found

    def _decoded(self, item: Any) -> Decoded | BadImage | UserError:
        return item if isinstance(item, Decoded | BadImage | UserError) else self._decode(*item)

    def _decode(self, number: int, source: ImageInput) -> Decoded | BadImage | UserError:
        """An image prepared for the model, or the error to raise when its turn comes."""
        name = str(source) if isinstance(source, str | os.PathLike) else f"image {number}"
        try:
            pixels, size = read_input(source, self.view_side, name)
        except (BadImage, UserError) as error:
            return error
        return Decoded(name, source, self.view(pixels), size)

    @abstractmethod
    def view(self, pixels: Pixels) -> Any:
        """The model's input for a decoded image (H, W, 3)."""

    @abstractmethod
    def predict_batch(self, views: list[Any], sizes: list[Size]) -> list[dict[str, Any]]:
        """The plain values of each result for a batch of views; `sizes` are the images' (height, width)."""
