"""Face attributes from an exported file's outputs."""

from typing import Any

import numpy as np

from tasks.engine.answers import Outputs


def attributes(outputs: Outputs, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The attributes, most probable first."""
    scores = outputs["probabilities"]
    return [{"label": spec["labels"][i], "score": round(float(scores[i]), 4)} for i in np.argsort(-scores)]
