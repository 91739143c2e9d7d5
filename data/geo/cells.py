"""PlaNet's adaptive partition of the Earth into S2 cells (https://arxiv.org/abs/1602.05314, section 3)."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from backbones.errors import UserError
from backbones.files import atomic_write, check_regular
from data.geo.s2 import (
    MAX_LEVEL,
    Floats,
    Ints,
    UInts,
    cell_ids,
    cell_vectors,
    check_positions,
    chunks,
    from_tokens,
    lowest_bit,
    range_max,
    range_min,
    to_degrees,
    to_tokens,
)

_FORMAT = "planet-cells 1"
_COLUMNS = "token,count,latitude,longitude"


@dataclass(frozen=True)
class PartitionSettings:
    """A cell of more than `max_photos` (PlaNet's t1) is split, one of fewer than `min_photos` (t2) dropped.

    Cells above `min_level` are always split, cells at `max_level` never.

    Raises:
        UserError: the settings contradict each other.
    """

    max_photos: int = 10_000
    min_photos: int = 50
    min_level: int = 0
    max_level: int = MAX_LEVEL

    def __post_init__(self) -> None:
        allowed = f"1 <= min_photos <= max_photos and 0 <= min_level <= max_level <= {MAX_LEVEL}"
        levels = 0 <= self.min_level <= self.max_level <= MAX_LEVEL
        if not levels or not 1 <= self.min_photos <= self.max_photos:
            raise UserError(f"{self}: it must be that {allowed}")


def _split(leaves: UInts, settings: PartitionSettings) -> tuple[UInts, Ints, Ints]:
    """The kept cells (N,) in order, and the bounds of each one's photos in the sorted `leaves`."""
    cells: UInts = np.arange(1, 12, 2, dtype=np.uint64) << np.uint64(60)
    done = []
    for level in range(settings.max_level + 1):
        begin: Ints = np.searchsorted(leaves, range_min(cells), side="left")
        end: Ints = np.searchsorted(leaves, range_max(cells), side="right")
        # A cell with too few photos has no descendant with enough, so it is dropped even if it should be split.
        kept = end - begin >= settings.min_photos
        cells, begin, end = cells[kept], begin[kept], end[kept]
        split = (end - begin > settings.max_photos) | (level < settings.min_level)
        split &= level < settings.max_level
        done.append((cells[~split], begin[~split], end[~split]))
        bit = lowest_bit(cells[split])[:, None] >> 2  # lowest bit of a child
        cells = (cells[split][:, None] + bit * np.array([-3, -1, 1, 3]).astype(np.uint64)).reshape(-1)
    ids, first, last = (np.concatenate(column) for column in zip(*done, strict=True))
    order = np.argsort(ids)
    return ids[order], first[order], last[order]


def _mean_positions(leaves: UInts, begin: Ints, end: Ints) -> tuple[Floats, Floats]:
    """Spherical mean, in degrees, of leaves[begin:end] for each pair of bounds (N,), which are in order."""
    bounds = np.stack([begin, end], axis=1).reshape(-1)
    sums = np.zeros((3, begin.size))
    for part in chunks(leaves.size):
        # The bounds cut the chunk into runs that are alternately outside and inside of a kept cell.
        first, last = np.searchsorted(end, part.start, side="right"), np.searchsorted(begin, part.stop)
        cuts = np.clip(bounds[2 * first : 2 * last], part.start, part.stop)
        lengths = np.diff(cuts, prepend=part.start, append=part.stop)
        run = np.repeat(np.arange(lengths.size), lengths)
        for total, values in zip(sums, cell_vectors(leaves[part]), strict=True):
            total[first:last] += np.bincount(run, values, minlength=lengths.size)[1::2]
    # A cell is at most a cube face, all of it within 55 degrees of the face's middle: no sum is near 0.
    latitude, longitude = to_degrees(sums)
    return np.round(latitude, 7) + 0.0, np.round(longitude, 7) + 0.0


@dataclass(frozen=True, eq=False)
class Partition:
    """Disjoint cells in the order of their ids, each with the number and mean position of its photos.

    ids, counts, latitude and longitude are (N,); the positions are spherical means in degrees, rounded to
    7 digits (a centimetre). `photos` counts all that the partition was made from, including dropped ones.
    """

    settings: PartitionSettings
    photos: int
    ids: UInts
    counts: Ints
    latitude: Floats
    longitude: Floats

    @classmethod
    def from_leaves(cls, leaves: UInts, settings: PartitionSettings) -> "Partition":
        """From sorted leaf ids (N,), 8 bytes a photo, memory-mapped or not.

        Raises:
            UserError: there are no leaves, or the settings leave no cell.
        """
        if not leaves.size:
            raise UserError("a partition is made of photos with positions, and there are none")
        ids, begin, end = _split(leaves, settings)
        if not ids.size:
            low, high, level = settings.min_photos, settings.max_photos, settings.min_level
            raise UserError(
                f"the partition has no cell left: none holds min_photos={low} of {leaves.size:,} photos; "
                f"lower that, raise max_photos={high} or lower min_level={level}"
            )
        return cls(settings, leaves.size, ids, end - begin, *_mean_positions(leaves, begin, end))

    def __len__(self) -> int:
        return self.ids.size

    @cached_property
    def _bounds(self) -> tuple[UInts, UInts]:
        return range_min(self.ids), range_max(self.ids)

    def find(self, ids: UInts) -> Ints:
        """Index (N,) of the partition's cell that contains each of the cells (N,) of any level, -1 if there is none."""
        begin, end = self._bounds
        index = np.empty(ids.size, np.int64)
        for part in chunks(ids.size):
            place = np.searchsorted(begin, range_min(ids[part]), side="right") - 1
            index[part] = np.where((place >= 0) & (range_max(ids[part]) <= end[place]), place, -1)
        return index

    def save(self, path: Path) -> None:
        """Writes CSV below a readable header, atomically."""
        header = {"format": _FORMAT, **asdict(self.settings), "photos": self.photos}
        header |= {"kept": int(self.counts.sum()), "cells": len(self)}
        rows = zip(to_tokens(self.ids), self.counts, self.latitude, self.longitude, strict=True)
        lines = [f"# {key}: {value}" for key, value in header.items()] + [_COLUMNS]
        lines += [f"{token},{count},{lat:.7f},{lon:.7f}" for token, count, lat, lon in rows]
        with atomic_write(path, "w") as file:
            file.write("\n".join(lines) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Partition":
        """Reads a saved partition.

        Raises:
            UserError: the file is missing, damaged or not a partition.
        """
        try:
            check_regular(path)
            return cls._parse(path.read_text(encoding="ascii"))
        except OSError as error:
            raise UserError(f"cannot read the partition {path}: {error.strerror}") from error
        except (ValueError, OverflowError, UserError) as error:
            raise UserError(f"{path} is not a valid partition file: {error}") from error

    @classmethod
    def _parse(cls, text: str) -> "Partition":
        header = dict(re.findall(r"^# (\w+): (.*)$", text, re.MULTILINE))
        if header.get("format") != _FORMAT:
            raise ValueError(f"it does not begin with '# format: {_FORMAT}'")
        names = [field.name for field in fields(PartitionSettings)]
        if missing := {*names, "photos", "kept", "cells"} - header.keys():
            raise ValueError(f"its header lacks {', '.join(sorted(missing))}")
        rows = [line.split(",") for line in text.splitlines()[len(header) + 1 :]]
        complete = bool(rows) and len(rows) == int(header["cells"]) and text.endswith("\n")
        if not complete or any(len(row) != 4 for row in rows):
            raise ValueError(f"it should have {header['cells']} rows of {_COLUMNS}")
        token, count, latitude, longitude = zip(*rows, strict=True)
        settings = PartitionSettings(**{name: int(header[name]) for name in names})
        photos, kept, counts = int(header["photos"]), int(header["kept"]), np.array(count, np.int64)
        positions = np.array([latitude, longitude], np.float64)
        partition = cls(settings, photos, from_tokens(token), counts, *positions)
        begin, end = partition._bounds
        if (begin[1:] <= end[:-1]).any():
            raise ValueError("its cells overlap or are not in order")
        if counts.sum() != kept or kept > photos or counts.min() < settings.min_photos:
            raise ValueError(f"its cells' counts do not fit its header ({kept} of {photos} photos kept)")
        check_positions(*positions)
        return partition


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """Partitions of the same photos, coarse to fine, for heads whose probabilities are multiplied.

    The probability of a fine cell is its own times that of the coarser cell that contains it in each other head.
    With settings in order (towards finer, max_photos never rises, min_photos, min_level and max_level never
    fall) each fine cell lies in one kept cell of every coarser partition. Otherwise the coarse cell may have
    been dropped, or be smaller than the fine one, and its index is -1: that head knows nothing of the fine
    cell, so its factor has to be masked (0, or left out), because -1 would index the head's last cell.
    """

    partitions: tuple[Partition, ...]

    @classmethod
    def build(cls, latitude: ArrayLike, longitude: ArrayLike, all_settings: Sequence[PartitionSettings]) -> "Hierarchy":
        """Positions become cells and are sorted once for all settings.

        Raises:
            UserError: there are no positions, one is not valid, or the settings leave no cell.
        """
        leaves = cell_ids(latitude, longitude).reshape(-1)
        leaves.sort()
        return cls(tuple(Partition.from_leaves(leaves, settings) for settings in all_settings))

    def distinct(self) -> "Hierarchy":
        """Without partitions whose cells are those of the next finer one: each head over the same cells would multiply
        the same probabilities once more, which makes them too high.
        """
        coarse = [p for p, finer in pairwise(self.partitions) if not np.array_equal(p.ids, finer.ids)]
        return Hierarchy((*coarse, self.partitions[-1]))

    @cached_property
    def parents(self) -> Ints:
        """Index (P - 1, N), in each of the P - 1 coarser partitions, of the cell that contains each finest cell."""
        finest = self.partitions[-1].ids
        return np.array([p.find(finest) for p in self.partitions[:-1]], np.int64).reshape(-1, finest.size)

    def assign(self, latitude: ArrayLike, longitude: ArrayLike) -> Ints:
        """Indices (N, P) of the cells in all P partitions that hold N positions, -1 where dropped."""
        ids = cell_ids(latitude, longitude).reshape(-1)
        return np.stack([partition.find(ids) for partition in self.partitions], axis=1)

    @classmethod
    def from_labels(cls, labels: Sequence[str]) -> "Hierarchy":
        """The partitions of `labels`, without settings and counts, which labels do not contain."""
        rows = [label.replace("/", " ").split() for label in labels]
        partitions = []
        for head in range(int(rows[-1][0]) + 1):
            own = [row for row in rows if int(row[0]) == head]
            latitude, longitude = np.array([row[2:] for row in own], np.float64).T
            ids = from_tokens([row[1] for row in own])
            partitions.append(Partition(PartitionSettings(), 0, ids, np.zeros(len(own), np.int64), latitude, longitude))
        return cls(tuple(partitions))

    @property
    def labels(self) -> list[str]:
        """A line for each cell of each partition with all that a model must know of it: partition/token position.

        A checkpoint keeps labels, so that its heads can be read without the photos that the partitions were made of.
        """
        return [
            f"{head}/{token} {latitude:.5f} {longitude:.5f}"
            for head, p in enumerate(self.partitions)
            for token, latitude, longitude in zip(to_tokens(p.ids), p.latitude, p.longitude, strict=True)
        ]
