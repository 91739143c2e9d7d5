"""Builds one page from template, style, script, exports, samples and runtime."""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from backbones.files import atomic_write
from tasks.engine.drawing import data_url
from tasks.web.exports import Export, find_exports, folders_of
from tasks.web.runtime import RUNTIMES, runtime_names
from tasks.web.samples import COUNT, DRAWN, drawn_samples, read_samples

HERE = Path(__file__).resolve().parent
SCRIPTS = ("runtimes.js", "models.js", "show.js", "page.js")  # in this order
MAP_WIDTH = 720  # pixels


def write_page(config: dict[str, Any]) -> Path:
    """Writes the page that `conf/page.yaml` describes, and returns its path.

    Raises:
        UserError: see `find_exports`, `read_samples` and `Runtime.files`.
        OSError: the page cannot be written.
    """
    exports = find_exports(config["exports"])
    samples = read_samples(config["samples"]) if config["samples"] else own_samples(exports)
    path = Path(config["output"] or Path(folders_of(config["exports"])[0]) / "page.html")
    text = page(config, exports, samples)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def own_samples(exports: Sequence[Export]) -> list[bytes]:
    """Generated samples for exports that were trained on a demo's data."""
    kinds = list(dict.fromkeys(DRAWN[export.data] for export in exports if export.data in DRAWN))
    return [sample for draw in kinds for sample in drawn_samples(draw, max(2, COUNT // len(kinds)))]


def page(config: dict[str, Any], exports: Sequence[Export], samples: Sequence[bytes]) -> str:
    """The text of the page."""
    file_formats = list(dict.fromkeys(export.spec["format"] for export in exports))
    linked = config["runtime"] == "link"
    if config["webgpu"] and "onnx" not in file_formats:
        raise UserError("webgpu=true runs only format=onnx, and no export has that format")
    content: dict[str, Any] = {
        "runtimes": {file_format: described(file_format, config) for file_format in file_formats},
        "webgpu": config["webgpu"],
        "exports": [export.spec for export in exports],
        "samples": [f"data:image/jpeg;base64,{base64.b64encode(sample).decode()}" for sample in samples],
        "map": world_map() if any("cells" in export.spec for export in exports) else None,
    }
    blobs = {f"model-{i}": export.model for i, export in enumerate(exports)}
    if not linked:
        for file_format in file_formats:
            files = RUNTIMES[file_format].files(runtime_names(file_format, config["webgpu"]), config["runtime_folder"])
            blobs |= {f"{file_format}-{i}": file for i, file in enumerate(files)}
    script = "\n".join((HERE / name).read_text() for name in SCRIPTS)
    style = (HERE / "page.css").read_text()
    fields = {
        "policy": policy(script, style, config["cdn"] if linked else None),
        "style": style,
        "data": json.dumps(content, allow_nan=False).replace("<", "\\u003c"),  # no name can close the script element
        "blobs": "\n".join(blob(name, value) for name, value in blobs.items()),
        "script": script,
    }
    return fill((HERE / "template.html").read_text(), fields)


def described(file_format: str, config: dict[str, Any]) -> dict[str, Any]:
    """A format's runtime as the page's script has it: its name, and addresses of files that are not in the page."""
    runtime = RUNTIMES[file_format]
    base = f"{config['cdn'].rstrip('/')}/{runtime.release}/{runtime.folder}"
    names = runtime_names(file_format, config["webgpu"])
    link = [{"url": f"{base}/{name}", "integrity": runtime.integrity[name]} for name in names]
    return {"name": f"{runtime.package} {runtime.version}", "link": link if config["runtime"] == "link" else None}


def fill(template: str, fields: Mapping[str, str]) -> str:
    """The template with each {{name}} replaced once: a {{name}} in a value stays as it is."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: fields[match[1]], template)


def policy(script: str, style: str, cdn: str | None) -> str:
    """The content security policy: only this script and style run, and only the CDN may be connected to."""
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(t.encode()).digest()).decode()}'" for t in (script, style)]
    where = ""
    if cdn:
        if not (match := re.match(r"https?://[\w.:-]+(?=/|$)", cdn)):
            raise UserError(f"cdn={cdn}: this is not an address such as https://<host>/<path>")
        where = f" {match[0]}"
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {hashes[0]} blob: 'wasm-unsafe-eval'",
            f"style-src {hashes[1]}",
            "img-src data: blob:",
            "media-src blob:",
            "worker-src blob:",
            f"connect-src data: blob:{where}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def blob(name: str, content: bytes) -> str:
    """A script element that holds gzip-compressed bytes in base64."""
    text = base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()
    return f'<script type="text/plain" id="{name}">{text}</script>'


def world_map() -> str:
    """An equirectangular map of the world as a data URL; without land if the extra `earth` is not installed."""
    from tasks.geo.maps import world

    return data_url(world(MAP_WIDTH))
