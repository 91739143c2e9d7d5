"""An embedding, and the images that are most similar."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from tasks.engine.drawing import beside
from tasks.engine.results import Outputs, Result


def embedding(outputs: Outputs, spec: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """The embedding; the inner product of two is their similarity."""
    return {"embedding": np.round(outputs["embedding"].astype(float), 5).tolist()}


class EmbeddingResult(Result):
    """A unit vector, and the most similar references where the model has some."""

    to_plain = staticmethod(embedding)
    compares: ClassVar[bool] = True
    hub_task = "image-feature-extraction"
    responsible_use = (
        "It is for images of people who consented to be compared; delete what is withdrawn. It must not be used to "
        "identify or track people who did not, or to make decisions about anybody. A similarity is not a verdict."
    )

    @property
    def embedding(self) -> npt.NDArray[np.float32]:
        """A vector (D,) of length 1: inner products say how alike two faces are. Whether two images show one person
        is not decided, as the threshold depends on the cost of an error.
        """
        return np.array(self.plain["embedding"], np.float32)

    @property
    def matches(self) -> list[dict[str, Any]]:
        """The most similar references, best first: `file` and `similarity` (cosine)."""
        found: list[dict[str, Any]] = self.plain.get("matches", [])
        return found

    def annotate(self, image: Image.Image) -> Image.Image:
        return beside(image, [f"{m['similarity']:.3f} {m['file'].rpartition('/')[2]}" for m in self.matches])

    def describe(self) -> str | None:
        rows = [f"{m['similarity']:.3f} {m['file']}" for m in self.matches]
        return "similarity " + ", ".join(rows) if rows else None
