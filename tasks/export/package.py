"""An export's folder: the file, model.json and example.py, written whole or not at all."""

import hashlib
import inspect
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tasks.engine.model import ExportSpec

VERSION = 1
EXAMPLE = '''"""Runs {file} on images: python example.py photo.jpg ...   It needs numpy, Pillow and {runtime}."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

FOLDER = Path(__file__).resolve().parent
SPEC = json.loads((FOLDER / "model.json").read_text())
Outputs = dict[str, npt.NDArray[Any]]


def read(path: str) -> npt.NDArray[Any]:
    """An image as the network's input."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    if SPEC["input"]["center_crop"]:  # the central square of this share of the shorter side
        side = SPEC["input"]["center_crop"] * min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        image = image.crop(tuple(round(v) for v in (left, top, left + side, top + side)))
    size = SPEC["input"]["size"]
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))[None]
    if SPEC["input"]["layout"] == "float_nchw":
        pixels = pixels.transpose(0, 3, 1, 2).astype(np.float32)
    batch = SPEC["input"]["shape"][0]
    return np.ascontiguousarray(np.repeat(pixels, batch, axis=0) if isinstance(batch, int) else pixels)

{run}
{answer}

for path in sys.argv[1:]:
    outputs = {{o["name"]: value[0] for o, value in zip(SPEC["outputs"], run(read(path)))}}
    for row in {name}(outputs, SPEC):
        print(path, json.dumps(row))
'''


@dataclass
class Spec:
    """What model.json says."""

    task: str
    format: str
    quantize: str
    file: str
    input: dict[str, Any]  # name, shape, type, layout, size, centre, values
    normalization: list[list[float]]  # inside the file
    outputs: list[dict[str, Any]]  # name, shape, type, meaning
    answer: str  # what the outputs are turned into: the name of a function in answers.py
    labels: list[str]
    cost: dict[str, float]
    versions: dict[str, str]
    provenance: dict[str, Any]
    metrics: dict[str, Any] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    sha256: str = ""
    note: str | None = None  # what every report on this data must say
    version: int = VERSION

    @property
    def names(self) -> list[str]:
        """Of the outputs, in order."""
        return [output["name"] for output in self.outputs]


def example(spec: Spec, exports: ExportSpec, run: str, runtime: str) -> str:
    """The text of example.py."""
    functions = [inspect.getsource(f) for f in (*exports.helpers, exports.answer)]
    text = "\n".join(("", *functions)).replace("\n\n\n\n", "\n\n\n")
    return EXAMPLE.format(file=spec.file, runtime=runtime, run=run, answer=text, name=exports.answer.__name__)


def write_spec(folder: Path, spec: Spec, facts: dict[str, Any]) -> None:
    (folder / "model.json").write_text(json.dumps(asdict(spec) | facts) + "\n")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
