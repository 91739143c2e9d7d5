"""The whole account of a data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.progress import track

from backbones.console import Console
from data.base import SuiteData
from tasks.inspect import classes, duplicates, labels, photos
from tasks.inspect.advice import Advice, advise
from tasks.inspect.contents import Contents, read
from tasks.inspect.files import DECODED, Seen, look_at_all
from tasks.inspect.findings import Finding


@dataclass(frozen=True)
class Survey:
    contents: Contents
    seen: Sequence[Seen]  # (N,) what is known of each image
    decoded: int  # images whose pixels were looked at
    findings: list[Finding]  # faults first
    advice: list[Advice]


def survey(data: SuiteData, config: dict[str, Any], decoded: int = DECODED) -> Survey:
    """Looks at all splits and all files; of more than `decoded` images only that many are decoded.

    Raises:
        UserError: a split cannot be read, or the data is of a kind that is not checked.
    """
    contents = read(data)
    files = list(dict.fromkeys(contents.paths))
    looked = look_at_all(files, decoded, data.max_pixels)
    shown = track(looked, "looking at images", total=len(files), console=Console(stderr=True), transient=True)
    known = dict(zip(files, shown, strict=True))
    seen = [known[path] for path in contents.paths]
    found = [f for module in (photos, duplicates, labels, classes) for f in module.findings(contents, seen)]
    count = min(decoded, len(files))
    return Survey(contents, seen, count, sorted(found, key=lambda f: not f.fault), advise(contents, seen, config))
