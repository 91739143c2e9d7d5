"""Finds exports, and reads the parts of their model.json that go into the page. A model.json is not trusted: every
field that is used is checked, and none chooses which file is read.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from data.text import read_json

MODELS = {"onnx": "model.onnx", "litert": "model.tflite"}  # the formats that browsers run
NMS = ("score_threshold", "candidates", "nms_iou", "max_detections")  # settings of non-maximum suppression
LAYOUTS = ("uint8_nhwc", "float_nchw")
SIDE_LIMIT = 4096
LARGEST_SPEC = 1 << 26  # bytes
VERSION = 1  # of model.json, as tasks.export.package writes it


@dataclass(frozen=True)
class Export:
    """An export: the model file, and the part of model.json that goes into the page."""

    name: str
    folder: Path
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
    folders: dict[Path, str] = {}  # and their formats
    for part in folders_of(exports):
        if not Path(part).is_dir():
            raise UserError(f"exports={part}: there is no such folder; give that of an export or a run")
        found = {
            file.parent: file_format
            for file in sorted(Path(part).rglob("model.json"))
            if (file_format := format_of(file))
        }
        if not found:
            raise UserError(f"exports={part}: there is no export in it; make one with python -m tasks.export ckpt=...")
        folders |= {folder.resolve(): file_format for folder, file_format in found.items()}
    usable = [folder for folder, file_format in folders.items() if file_format in MODELS]
    if not usable:
        file_formats = ", ".join(sorted(set(folders.values())))
        raise UserError(
            f"exports={exports}: a browser runs format=litert or onnx, not {file_formats}; export again with one"
        )
    return [read_export(folder, name) for folder, name in zip(usable, names(usable), strict=True)]


def format_of(file: Path) -> str | None:
    """The format in a model.json; None if it is still being written, or is that of a backbone."""
    if file.parent.name.startswith("."):
        return None
    content = parse(file)
    if not isinstance(content, dict) or "format" not in content:
        return None
    return str(content["format"])


def parse(file: Path) -> Any:
    try:
        return read_json(file, LARGEST_SPEC)
    except UserError as error:
        raise damaged(file) from error


def damaged(file: Path) -> UserError:
    return UserError(f"{file} is damaged; export again with overwrite=true")


def names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, with their runs' names in front if several are the same."""
    own = [folder.name for folder in folders]
    runs = [f.parent.parent.name if f.parent.name == "export" else f.parent.name for f in folders]
    return [f"{run}/{name}" if own.count(name) > 1 else name for run, name in zip(runs, own, strict=True)]


def read_export(folder: Path, name: str) -> Export:
    """The export in a folder.

    Raises:
        UserError: model.json is damaged or of a newer version, or the model is not the one that it describes.
    """
    file = folder / "model.json"
    content = parse(file)
    try:
        if int(content["version"]) > VERSION:
            raise UserError(f"{file} was written by a newer version of this suite; update to read it")
        spec = page_spec(content)
        digest = content["sha256"]
        data = content["provenance"]["config"]["groups"]["data"]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise damaged(file) from error
    path = folder / MODELS[spec["format"]]
    if not path.is_file():
        raise UserError(f"there is no {path}; export again with overwrite=true")
    model = path.read_bytes()
    if hashlib.sha256(model).hexdigest() != digest:
        raise UserError(f"{path} is not the file that model.json describes; export again with overwrite=true")
    return Export(name, folder, model, spec | {"name": name, "sha256": digest, "bytes": len(model)}, str(data))


def page_spec(content: dict[str, Any]) -> dict[str, Any]:
    """The part of model.json that goes into the page; the run's settings, for example, have paths of the machine that
    trained it.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, OverflowError: something is absent or of the wrong type.
    """
    given, center = content["input"], content["input"]["center_crop"]
    view = {"name": str(given["name"]), "layout": given["layout"], "size": int(given["size"]), "center_crop": None}
    if view["layout"] not in LAYOUTS or not 1 <= view["size"] <= SIDE_LIMIT:
        raise ValueError(view)
    if center is not None:
        view["center_crop"] = number(center)
        if not 0 < view["center_crop"] <= 1:
            raise ValueError(view)
    spec = {
        "task": str(content["task"]),
        "format": content["format"],
        "quantize": str(content["quantize"]),
        "answer": str(content.get("answer", "values")),  # exports of older versions show their outputs as they are
        "input": view,
        "outputs": [{key: str(output[key]) for key in ("name", "meaning")} for output in content["outputs"]],
        "labels": [str(label) for label in content["labels"]],
        "note": str(content["note"]) if content.get("note") else None,
        "postprocess": {"draw_threshold": 0.0} | {k: number(v) for k, v in content.get("postprocess", {}).items()},
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
