"""A position from an exported file's outputs."""

from typing import Any

import numpy as np

from tasks.engine.answers import Outputs


def position(outputs: Outputs, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Latitude and longitude in degrees, and the most probable cells."""
    x, y, z = outputs["directions"].astype(float)
    cells = [
        {"token": spec["cells"]["tokens"][i], "probability": round(float(p), 4)}
        for i, p in zip(outputs["cells"], outputs["probabilities"], strict=True)
    ]
    latitude, longitude = np.degrees([np.arctan2(z, np.hypot(x, y)), np.arctan2(y, x)]).tolist()
    return [{"latitude": round(latitude, 5), "longitude": round(longitude, 5), "cells": cells}]
