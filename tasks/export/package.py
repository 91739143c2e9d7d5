"""An export's folder: the file, model.json, example.py and README.md, written completely or not at all."""

import hashlib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from data.text import read_json
from tasks.engine.names import labels_of
from tasks.export.formats import FORMATS

VERSION = 1
MAX_BYTES = 1 << 26  # of model.json: the cells of task=geo take 2 MB
MOST_MADDS = 1e9  # million multiply-adds: a finite number, and far beyond any network here
LEAST_FRACTION = 1e-3  # of center_crop: the side of an image with such a crop of `size` pixels must stay a number
AGAIN = "export again with overwrite=true"
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


def read(path: str) -> tuple[npt.NDArray[Any], tuple[int, int]]:
    """An image as the network's input, and its height and width."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode in ("I", "F"):
        sys.exit(f"{{path}}: nothing says which of its 32-bit values is white; convert it to 8 or 16 bits")
    if image.mode.startswith("I;16"):  # Pillow would clip
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("RGB")
    height, width = image.height, image.width
    if SPEC["input"]["center_crop"]:  # the central square of this fraction of the shorter side
        side = SPEC["input"]["center_crop"] * min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        image = image.crop(tuple(round(v) for v in (left, top, left + side, top + side)))
    size = SPEC["input"]["size"]
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))[None]
    if SPEC["input"]["layout"] == "float_nchw":
        pixels = pixels.transpose(0, 3, 1, 2).astype(np.float32)
    batch = SPEC["input"]["shape"][0]
    pixels = np.repeat(pixels, batch, axis=0) if isinstance(batch, int) else pixels
    return np.ascontiguousarray(pixels), (height, width)

{run}
{answer}

for path in sys.argv[1:]:
    pixels, size = read(path)
    outputs = {{o["name"]: value[0] for o, value in zip(SPEC["outputs"], run(pixels))}}
    print(path, json.dumps({name}(outputs, SPEC, size)))
'''


@dataclass
class Spec:
    """The content of model.json."""

    task: str
    format: str
    quantize: str
    file: str
    input: dict[str, Any]  # name, shape, type, layout, size, center_crop, values
    normalization: list[list[float]]  # inside the file
    outputs: list[dict[str, Any]]  # name, shape, type, meaning
    answer: str  # what the outputs are turned into: the name of a function in results.py
    labels: list[str]
    cost: dict[str, float]
    versions: dict[str, str]
    provenance: dict[str, Any]
    metrics: dict[str, Any] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    latency: dict[str, Any] = field(default_factory=dict)  # of one image: median_ms, p95_ms, calls, batch, threads
    sha256: str = ""
    note: str | None = None  # what every report on this data must say
    version: int = VERSION

    @property
    def names(self) -> list[str]:
        """Names of the outputs, in order."""
        return [output["name"] for output in self.outputs]


def example(spec: Spec, functions: Sequence[Callable[..., Any]], run: str, runtime: str) -> str:
    """The text of example.py; its last function turns the outputs into the result."""
    text = "\n".join(("", *map(inspect.getsource, functions))).replace("\n\n\n\n", "\n\n\n")
    return EXAMPLE.format(file=spec.file, runtime=runtime, run=run, answer=text, name=functions[-1].__name__)


def write_spec(folder: Path, spec: Spec, facts: dict[str, Any]) -> None:
    (folder / "model.json").write_text(json.dumps(asdict(spec) | facts) + "\n")


def last_part(place: str) -> str:
    """The last part of a path or of an address; "" if an address has no path. Its host and query may hold secrets."""
    path = re.split(r"[?#]", place)[0].replace("\\", "/")  # a query may hold slashes
    _, scheme_end, rest = path.rpartition("://")
    return (rest.partition("/")[2] if scheme_end else path).rstrip("/").rpartition("/")[2]


def without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with paths and addresses cut to their last part, so that they reveal nothing of this machine."""

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cut(item) for key, item in value.items()}
        if isinstance(value, list):
            return [cut(item) for item in value]
        if isinstance(value, str) and ("/" in value or "\\" in value):
            return last_part(value)
        return value

    return {key: item if key == "groups" else cut(item) for key, item in config.items()}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_spec(folder: Path) -> dict[str, Any]:
    """The content of an export's model.json. It is not trusted: the types of its main entries are checked.

    Raises:
        UserError: there is none, it is damaged, of a newer version, or names a file outside of the folder.
    """
    path = folder / "model.json"
    return _checked(_read(path), path)


def exports_below(folder: Path) -> dict[Path, dict[str, Any]]:
    """The exports in a folder or below it, with what `read_spec` returns for each. Folders that are still being
    written, and exports of a backbone alone, are left out.

    Raises:
        UserError: as `read_spec`.
    """
    found = {}
    for path in sorted(folder.rglob("model.json")):
        content = {} if path.parent.name.startswith(".") else _read(path)
        if isinstance(content, dict) and "outputs" in content:  # a backbone alone has none
            found[path.parent] = _checked(content, path)
    return found


def short_names(folders: Iterable[Path]) -> list[str]:
    """The folders' own names, each with as many of the folders above it in front as tell it from the others. Folders
    called `export` are left out, which says nothing, unless only they differ.
    """
    whole = [folder.absolute().parts for folder in folders]
    short = [(*(part for part in path[:-1] if part != "export"), path[-1]) for path in whole]
    paths = short if len(set(short)) == len(short) else whole
    names = []
    for path in paths:
        count = 1
        while count < len(path) and sum(other[-count:] == path[-count:] for other in paths) > 1:
            count += 1
        names.append(Path(*path[-count:]).as_posix())
    return names


def _read(path: Path) -> Any:
    try:
        return read_json(path, MAX_BYTES)
    except UserError as error:
        raise UserError(f"{error}; {AGAIN}") from error


def _checked(content: Any, path: Path) -> dict[str, Any]:
    """The content of the model.json at `path`, checked and with defaults. Raises UserError as `read_spec`."""
    if not isinstance(content, dict) or "format" not in content or type(content.get("version")) is not int:
        raise UserError(f"{path.parent} is not an export of a model: its model.json does not describe one")
    if content["version"] > VERSION:
        raise UserError(f"{path} was written by a newer version of this suite; update to read it")
    if wrong := _wrong_part(content):
        raise UserError(f"{path} is damaged: {wrong}; {AGAIN}")
    content["parts"] = content.get("parts", {})  # of a file of several tasks
    for own in (content, *content["parts"].values()):
        own["postprocess"] = {"draw_threshold": 0.0} | own.get("postprocess", {})
    return content


def _wrong_part(content: dict[str, Any]) -> str | None:
    """What is wrong with the first invalid entry of a model.json; None if all are valid."""
    file_format = FORMATS.get(content["format"]) if isinstance(content["format"], str) else None
    image, outputs, labels = (content.get(name) for name in ("input", "outputs", "labels"))
    if file_format is None:
        return f"format={content['format']!r:.40} is none of {', '.join(FORMATS)}"
    if content.get("file") != f"model{file_format.suffix}":
        return f"file must be model{file_format.suffix}"
    if not isinstance(content.get("task"), str):
        return "task is not a name"
    if not isinstance(labels, list) or not all(type(label) is str for label in labels):
        return "labels is not a list of names"
    if not isinstance(outputs, list) or not all(isinstance(o, dict) and type(o.get("name")) is str for o in outputs):
        return "outputs is not a list of named outputs"
    if not isinstance(image, dict) or image.get("layout") not in ("uint8_nhwc", "float_nchw"):
        return "input.layout is neither uint8_nhwc nor float_nchw"
    if type(image.get("size")) is not int or not 1 <= image["size"] <= 4096:
        return "input.size is not a number of pixels"
    fraction = image.get("center_crop")
    if fraction is not None and not (type(fraction) in (int, float) and LEAST_FRACTION <= fraction <= 1):
        return "input.center_crop is not a fraction of the image"
    cost = content.get("cost")
    madds: Any = cost.get("madds_m") if isinstance(cost, dict) else None
    if type(madds) not in (int, float) or not 0 <= madds <= MOST_MADDS:
        return "cost.madds_m is not a number of multiply-adds in millions"
    parts = content.get("parts", {})
    if not isinstance(parts, dict) or not all(isinstance(part, dict) for part in parts.values()):
        return "parts is not a table of tasks"
    tables = [own.get("postprocess", {}) for own in (content, *parts.values())]
    if not all(isinstance(t, dict) and all(type(v) in (int, float) for v in t.values()) for t in tables):
        return "postprocess is not a table of numbers"
    for name, part in parts.items():
        if part.get("labels", []) != labels_of(labels, name):
            return f"the labels of parts.{name!r:.40} are not those of the file"
    return None
