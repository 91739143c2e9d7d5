"""What a run's data holds, in short."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from data.base import SuiteData
from data.classification import ImageSet
from data.detection import DetectionSet


def summary(data: SuiteData) -> list[str]:
    """A line of what the opened splits hold, and one for each pair of splits that has images in common, by their
    paths: what else is wrong, `python -m tasks.check` finds.
    """
    parts, files = [], {}
    for split, dataset in data.datasets.items():
        rows: Sequence[object] = []
        if isinstance(dataset, DetectionSet):
            rows = dataset.records
            boxes = sum(int((~record.crowd).sum()) for record in dataset.records)
            parts.append(f"{split} {len(rows):,} images, {boxes:,} boxes")
        elif isinstance(dataset, ImageSet) and dataset.samples:
            rows = dataset.samples
            parts.append(f"{split} {len(rows):,} images")
        files[split] = _resolved([row.path for row in rows])  # type: ignore[attr-defined]
    lines = [f"data: {'; '.join(parts)}"] if parts else []
    for one, other in combinations(files, 2):
        if common := files[one] & files[other]:
            name = min(common).name
            lines.append(f"warning: {len(common):,} images are in {one} and in {other}, for example {name}")
    return lines


def _resolved(paths: Sequence[Path]) -> set[Path]:
    """The paths with their folders resolved, each folder once."""
    folders = {folder: folder.resolve() for folder in {path.parent for path in paths}}
    return {folders[path.parent] / path.name for path in paths}
