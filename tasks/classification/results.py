"""A classifier's results from its outputs."""

from typing import Any

import numpy as np
from PIL import Image

from tasks.engine.drawing import captioned
from tasks.engine.results import Outputs, Scored


def classes(outputs: Outputs, spec: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """The five most probable classes."""
    scores = outputs["probabilities"]
    best = [i for i in np.argsort(-scores)[:5] if scores[i] >= spec["postprocess"]["draw_threshold"]]
    return {"classes": [{"label": spec["labels"][i], "score": round(float(scores[i]), 4)} for i in best]}


class ClassResult(Scored):
    """The most probable classes of an image: `labels` and `scores`, best first."""

    to_plain = staticmethod(classes)
    key = "classes"
    hub_task = "image-classification"

    def annotate(self, image: Image.Image) -> Image.Image:
        return captioned(image, self.lines()[:1])
