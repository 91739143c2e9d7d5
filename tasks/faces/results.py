"""Face attributes from a network's outputs."""

from typing import Any

import numpy as np
from PIL import Image

from tasks.engine.drawing import beside
from tasks.engine.results import SHOWN, Outputs, Scored


def attributes(outputs: Outputs, spec: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """The attributes, most probable first."""
    scores = outputs["probabilities"]
    rows = [i for i in np.argsort(-scores, kind="stable") if scores[i] >= spec["postprocess"]["draw_threshold"]]
    return {"attributes": [{"label": spec["labels"][i], "score": round(float(scores[i]), 4)} for i in rows]}


class AttributeResult(Scored):
    """The attributes of a face: `labels` and `scores`, most probable first."""

    to_plain = staticmethod(attributes)
    key = "attributes"
    hub_task = "image-classification"
    responsible_use = (
        "It is for images of people who consented to be looked at in this way. It must not be used to monitor crowds, "
        "workers or pupils, to infer origin, health, faith or character, or to make decisions about anybody."
    )

    def annotate(self, image: Image.Image) -> Image.Image:
        return beside(image, self.lines()[:SHOWN])

    def describe(self) -> str:
        rows = zip(self.lines(), self.scores.tolist(), strict=True)
        return ", ".join(line for line, score in rows if score >= 0.5)
