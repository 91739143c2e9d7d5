"""An embedding from an exported file's outputs."""

from typing import Any

import numpy as np

from tasks.engine.answers import Outputs


def embedding(outputs: Outputs, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The embedding; the inner product of two is their similarity."""
    return [{"embedding": np.round(outputs["embedding"].astype(float), 5).tolist()}]
