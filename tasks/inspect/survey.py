"""The inspection of a data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.progress import track

from backbones.console import Console
from data.base import SuiteData
from tasks.inspect import classes, duplicates, labels, photos
from tasks.inspect.advice import Advice, advise
from tasks.inspect.contents import Contents, read
from tasks.inspect.files import DECODED, FileInfo, inspect_files
from tasks.inspect.findings import Finding


@dataclass(frozen=True)
class Survey:
    contents: Contents
    infos: Sequence[FileInfo]  # (N,) what is known of each image
    decoded: int  # images whose pixels were decoded
    findings: list[Finding]  # faults first
    advice: list[Advice]


def survey(data: SuiteData, config: dict[str, Any]) -> Survey:
    """Inspects all splits and all files; of more than DECODED images only that many are decoded.

    Raises:
        UserError: a split cannot be read, or the data is of a kind that is not checked.
    """
    contents = read(data)
    files = list(dict.fromkeys(contents.paths))
    inspected = inspect_files(files, DECODED, data.max_pixels)
    shown = track(inspected, "inspecting images", total=len(files), console=Console(stderr=True), transient=True)
    known = dict(zip(files, shown, strict=True))
    infos = [known[path] for path in contents.paths]
    found = [f for module in (photos, duplicates, labels, classes) for f in module.findings(contents, infos)]
    found.sort(key=lambda f: not f.fault)
    return Survey(contents, infos, min(DECODED, len(files)), found, advise(contents, infos, config))
