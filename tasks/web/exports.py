"""Finds exports that browsers run, and reads the parts of their model.json that go into the page. A model.json is not
trusted: `tasks.export.package` checks its main entries, and here every other field that is used is checked.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from tasks.export.package import AGAIN, exports_below, short_names

FORMATS = ("onnx", "litert")  # that browsers run
NMS = ("score_threshold", "candidates", "nms_iou", "max_detections")  # settings of non-maximum suppression


@dataclass(frozen=True)
class Export:
    """An export: the model file, and the part of model.json that goes into the page."""

    model: bytes
    spec: dict[str, Any]
    data: str  # the data set of the run, by the name of its configuration


def folders_of(exports: str) -> list[str]:
    """The folders of the setting `exports`. Raises UserError if there are none."""
    parts = [part.strip() for part in exports.split(",") if part.strip()]
    if not parts:
        raise UserError("exports= is empty: give the folder of an export or a run, or several separated by commas")
    return [exports] if Path(exports).is_dir() else parts


def find_exports(exports: str) -> list[Export]:
    """The exports that browsers run, in the given folders or below; several folders are separated by commas.

    Raises:
        UserError: no folder is given, one is absent or has no export, the exports are of other formats, or one is
            damaged.
    """
    specs: dict[Path, dict[str, Any]] = {}
    for part in folders_of(exports):
        if not Path(part).is_dir():
            raise UserError(f"exports={part}: there is no such folder; give that of an export or a run")
        found = exports_below(Path(part))
        if not found:
            raise UserError(f"exports={part}: there is no export in it; make one with python -m tasks.export ckpt=...")
        specs |= {folder.resolve(): spec for folder, spec in found.items()}
    usable = {folder: spec for folder, spec in specs.items() if spec["format"] in FORMATS}
    if not usable:
        others = ", ".join(sorted({spec["format"] for spec in specs.values()}))
        raise UserError(f"exports={exports}: a browser runs format=litert or onnx, not {others}; export again with one")
    return [read_export(*pair, name) for pair, name in zip(usable.items(), short_names(usable), strict=True)]


def read_export(folder: Path, content: dict[str, Any], name: str) -> Export:
    """The export in a folder; `content` is that of its model.json, as `read_spec` returns it.

    Raises:
        UserError: model.json is damaged, or the model is not the one that it describes.
    """
    try:
        spec = page_spec(content)
        digest = content["sha256"]
        data = content["provenance"]["config"]["groups"]["data"]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{folder / 'model.json'} is damaged; {AGAIN}") from error
    path = folder / content["file"]
    if not path.is_file():
        raise UserError(f"there is no {path}; {AGAIN}")
    model = path.read_bytes()
    if hashlib.sha256(model).hexdigest() != digest:
        raise UserError(f"{path} is not the file that model.json describes; {AGAIN}")
    return Export(model, spec | {"name": name, "sha256": digest, "bytes": len(model)}, str(data))


def page_spec(content: dict[str, Any]) -> dict[str, Any]:
    """The part of model.json that goes into the page; the run's settings, for example, have paths of the machine that
    trained it.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, OverflowError: something is absent or of the wrong type.
    """
    given = content["input"]
    spec = {
        "task": content["task"],
        "format": content["format"],
        "quantize": str(content["quantize"]),
        "answer": str(content.get("answer", "values")),  # exports of older versions show their outputs as they are
        "input": {
            "name": str(given["name"]),
            "layout": given["layout"],
            "size": given["size"],
            "center_crop": given.get("center_crop"),
        },
        "outputs": [{key: str(output[key]) for key in ("name", "meaning")} for output in content["outputs"]],
        "labels": content["labels"],
        "note": str(content["note"]) if content.get("note") else None,
        "postprocess": {key: number(value) for key, value in content["postprocess"].items()},
    }
    if spec["answer"] == "detections" and "labels" not in [output["name"] for output in spec["outputs"]]:
        for name in NMS:  # the page runs non-maximum suppression
            spec["postprocess"][name] = number(content["postprocess"][name])
    if "threshold_far1e-2" in content["metrics"].get("after", {}):
        spec["threshold"] = number(content["metrics"]["after"]["threshold_far1e-2"])
    if "cells" in content:
        spec["cells"] = cells(content["cells"])
    return spec


def number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(value)
    return float(value)


def cells(content: dict[str, Any]) -> dict[str, Any]:
    """Tokens, mean positions (latitude, longitude) in degrees, and outlines of S2 cells."""
    from data.geo.s2 import cell_corners, from_tokens

    tokens = [str(token) for token in content["tokens"]]
    positions = [[number(v) for v in position] for position in content["positions"]]
    if len(positions) != len(tokens) or any(len(position) != 2 for position in positions):
        raise ValueError("positions")
    try:
        outlines = cell_corners(from_tokens(tokens), steps=2).round(2).tolist()
    except UserError:  # a partition without S2 cells has no outlines
        outlines = []
    return {"tokens": tokens, "positions": positions, "outlines": outlines}
