"""From what an exported file returned to plain answers, in numpy alone.

An application's answers.py holds its own function: it takes one image's outputs by name and the content of model.json,
and its source is copied into the export's example.py.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Outputs = dict[str, npt.NDArray[Any]]


def values(outputs: Outputs, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Every output as it is."""
    return [{name: np.round(value.astype(float), 5).tolist()} for name, value in outputs.items()]
