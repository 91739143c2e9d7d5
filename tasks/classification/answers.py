"""A classifier's answers from an exported file's outputs."""

from typing import Any

import numpy as np

from tasks.engine.answers import Outputs


def classes(outputs: Outputs, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The five most probable classes."""
    scores = outputs["probabilities"]
    best = np.argsort(-scores)[:5]
    return [{"label": spec["labels"][i], "score": round(float(scores[i]), 4)} for i in best]
