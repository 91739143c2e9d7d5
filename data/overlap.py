"""Images that two splits of a run have in common."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from data.base import SuiteData
from data.classification import ImageSet
from data.detection import DetectionSet


def overlaps(data: SuiteData) -> list[str]:
    """A warning for each pair of opened splits with images in common, by their paths; `python -m tasks.check` finds
    other faults.
    """
    files: dict[str, set[Path]] = {}
    for split, dataset in data.datasets.items():
        if isinstance(dataset, DetectionSet):
            files[split] = _resolved([record.path for record in dataset.records])
        elif isinstance(dataset, ImageSet):
            files[split] = _resolved([sample.path for sample in dataset.samples])
    common = {(one, other): files[one] & files[other] for one, other in combinations(files, 2)}
    return [
        f"{len(paths):,} images are in {one} and in {other}, for example {min(paths).name}"
        for (one, other), paths in common.items()
        if paths
    ]


def _resolved(paths: Sequence[Path]) -> set[Path]:
    """The paths with their folders resolved, each folder once."""
    folders = {folder: folder.resolve() for folder in {path.parent for path in paths}}
    return {folders[path.parent] / path.name for path in paths}
