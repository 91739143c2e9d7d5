"""S2 cell ids for whole arrays, and PlaNet's adaptive partition of the Earth into such cells.

Sources: the cells and their numbering are those of the S2 geometry library (https://s2geometry.io, its
quadratic projection); the partition is PlaNet's (https://arxiv.org/abs/1602.05314, section 3). An id is a
uint64: 3 bits of cube face, two bits a level of position along a Hilbert curve, a 1, then zeros. Positions
are in degrees, latitude from -90 to 90 and longitude from -180 to 180.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from backbones.errors import UserError

MAX_LEVEL = 30
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
UInts = NDArray[np.uint64]
Floats = NDArray[np.float64]

_FORMAT = "planet-cells 1"
_COLUMNS = "token,count,latitude,longitude"
_CHUNK = 1 << 15  # positions at once: enough to hide numpy's cost per call, few enough for the cache
# Leaf coordinates this near (in leaf cells) to an edge are computed again exactly as S2 does. The fast way
# errs by some 1e-15 of a cube face, which is 1e-6 of a leaf cell: this leaves a factor of 100.
_EDGE = 1e-4
_HALF = 2.0 ** (MAX_LEVEL - 1)  # half a cube face, in leaf cells
_SIGN = np.int64(-(2**63))

# The Hilbert curve. An orientation has two bits: 1 = i and j exchanged, 2 = both reversed. _QUADRANTS says
# by orientation and place along the curve which quadrant (2 * i + j) is there, _TURNS what it does to the
# orientation within. Six levels are looked up at once: five steps for a leaf, from a table of 32 KiB.
_QUADRANTS = np.array([[0, 1, 3, 2], [0, 2, 3, 1], [3, 2, 0, 1], [3, 1, 0, 2]])
_TURNS = np.array([1, 0, 0, 3])
_BITS = 6
_DIGIT, _PAIR = (1 << _BITS) - 1, (1 << 2 * _BITS) - 1
_SHIFTS = range(MAX_LEVEL - _BITS, -1, -_BITS)


def _hilbert_tables() -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Tables from (orientation, i, j) to (orientation, position) and back, packed as 2 + 6 + 6 bits."""
    start, position = np.divmod(np.arange(4 * (_PAIR + 1)), _PAIR + 1)
    orientation, i, j = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for shift in range(2 * _BITS - 2, -1, -2):
        place = (position >> shift) & 3
        quadrant = _QUADRANTS[orientation, place]
        i, j = 2 * i + (quadrant >> 1), 2 * j + (quadrant & 1)
        orientation ^= _TURNS[place]
    encode, decode = np.empty((2, start.size), np.uint16)
    begin, end, ij = start << 2 * _BITS, orientation << 2 * _BITS, (i << _BITS) | j
    encode[begin | ij] = end | position
    decode[begin | position] = end | ij
    return encode, decode


_ENCODE, _DECODE = _hilbert_tables()


def _encode(axis: NDArray[np.int8], negative: Bools, ij: NDArray[np.int32]) -> UInts:
    """Leaf ids (N,) of the leaf coordinates ij (2, N) on the cube faces at the given end of the axes.

    S2 exchanges u and v on the negative faces (3 to 5) and the axes of the curve on the odd ones; both
    together leave one exchange, where `axis` is odd, and so ij may ignore the first.
    """
    state = (axis & 1).astype(np.uint16) << 2 * _BITS
    position = (axis + 3 * negative.view(np.int8)).astype(np.int64)
    for shift in _SHIFTS:
        digits = (ij >> shift).astype(np.uint16)
        digits &= _DIGIT
        key = digits[0]
        key <<= _BITS
        key |= digits[1]
        key |= state
        packed = _ENCODE.take(key, mode="wrap")  # the fastest mode; no key is out of bounds
        state = packed & ~np.uint16(_PAIR)
        packed &= _PAIR
        position <<= 2 * _BITS
        position |= packed
    position <<= 1
    position |= 1
    return position.view(np.uint64)


def _direction_exact(latitude: Floats, longitude: Floats) -> tuple[Floats, Floats, Floats]:
    """Unit vectors by the very operations of S2, so that every bit agrees."""
    phi, theta = latitude * (np.pi / 180), longitude * (np.pi / 180)
    cosine = np.cos(phi)
    return np.cos(theta) * cosine, np.sin(theta) * cosine, np.sin(phi)


def _direction_fast(latitude: Floats, longitude: Floats) -> tuple[Floats, Floats, Floats]:
    """Vectors of other lengths in those directions, right to some 1e-15.

    By the tangents of the half angles, because numpy's tangent is ten times as fast as its sine and cosine.
    """
    p, q = np.tan(latitude * (np.pi / 360)), np.tan(longitude * (np.pi / 360))
    pp, qq = p * p, q * q
    cosine = 1.0 - pp
    p += p
    q += q
    return (1.0 - qq) * cosine, q * cosine, p * (1.0 + qq)


def _turn(mask: Bools, p: Floats, q: Floats) -> tuple[Floats, Floats]:
    """(q, -p) where the mask is set, else (p, q); np.where would suffer from mispredicted branches."""
    chosen = (-mask.view(np.int8)).astype(np.int64)
    p_bits, q_bits = p.view(np.int64), q.view(np.int64)
    difference = p_bits ^ q_bits
    difference &= chosen
    first = p_bits ^ difference
    difference ^= q_bits
    chosen &= _SIGN
    difference ^= chosen
    return first.view(np.float64), difference.view(np.float64)


def _project(x: Floats, y: Floats, z: Floats) -> tuple[NDArray[np.int8], Bools, NDArray[np.int32], Bools]:
    """Axis (N,), sign (N,) and leaf coordinates (2, N) of directions, and which are too near an edge (N,)."""
    x_size, y_size = np.abs(x), np.abs(y)
    not_x = x_size <= y_size  # equal sizes go to the later axis, as in S2
    is_z = np.maximum(x_size, y_size) <= np.abs(z)
    not_x |= is_z
    main, u = _turn(not_x, x, y)
    main, v = _turn(is_z, main, z)
    axis = not_x.view(np.int8) + is_z.view(np.int8)
    uv = np.empty((2, x.size))
    np.divide(u, main, out=uv[0])
    np.divide(v, main, out=uv[1])
    # S2's quadratic transform, s = sqrt(1 + 3u) / 2 or for negative u 1 - sqrt(1 - 3u) / 2, in leaf cells
    # from the face's middle. Scaling by powers of two and the symmetric form leave every rounding as it is.
    leaf = np.abs(uv)
    leaf *= 3.0 * _HALF**2
    leaf += _HALF**2
    np.sqrt(leaf, out=leaf)
    leaf -= _HALF
    bits = leaf.view(np.int64)
    bits |= uv.view(np.int64) & _SIGN
    leaf += _HALF - 0.5
    nearest = np.rint(leaf)
    leaf -= nearest
    edge = np.abs(leaf, out=leaf) > 0.5 - _EDGE
    return axis, main < 0, nearest.astype(np.int32), edge[0] | edge[1]


def _chunks(size: int) -> Iterator[slice]:
    return (slice(start, min(start + _CHUNK, size)) for start in range(0, size, _CHUNK))


def _check_positions(latitude: NDArray[Any], longitude: NDArray[Any]) -> None:
    bad = np.flatnonzero(~((np.abs(latitude) <= 90) & (np.abs(longitude) <= 180)))  # nan is bad, too
    if bad.size:
        raise UserError(
            f"{bad.size:,} of {latitude.size:,} positions are not numbers or not within latitude -90 to 90, "
            f"longitude -180 to 180; first row {bad[0]} (from 0): {latitude[bad[0]]}, {longitude[bad[0]]}"
        )


def cell_ids(latitude: ArrayLike, longitude: ArrayLike, level: int = MAX_LEVEL) -> UInts:
    """S2 cell ids, of the inputs' shape, bit for bit those of the S2 library.

    Needs 9 bytes a position beyond the inputs (24 above level 30, at most 40 where most positions lie on
    edges of cells). UserError where a position is not a number or out of range. Two ways of computing share
    the work: a fast one whose error is bounded, and the exact one for the few positions that this error
    could put into the neighbouring cell.
    """
    lat, lon = np.asarray(latitude), np.asarray(longitude)
    if lat.shape != lon.shape:
        raise ValueError(f"latitude and longitude differ in shape: {lat.shape} and {lon.shape}")
    shape, lat, lon = lat.shape, lat.reshape(-1), lon.reshape(-1)
    ids, near_edge = np.empty(lat.size, np.uint64), [np.empty(0, np.int64)]
    for part in _chunks(lat.size):
        phi, theta = lat[part].astype(np.float64, copy=False), lon[part].astype(np.float64, copy=False)
        if not (-90 <= phi.min() <= phi.max() <= 90 and -180 <= theta.min() <= theta.max() <= 180):
            _check_positions(lat, lon)
        axis, negative, ij, edge = _project(*_direction_fast(phi, theta))
        ids[part] = _encode(axis, negative, ij)
        near_edge.append(np.flatnonzero(edge) + part.start)
    again = np.concatenate(near_edge)
    for part in _chunks(again.size):
        rows = again[part]
        phi, theta = lat[rows].astype(np.float64), lon[rows].astype(np.float64)
        axis, negative, ij, _ = _project(*_direction_exact(phi, theta))
        ids[rows] = _encode(axis, negative, np.minimum(ij, 2**MAX_LEVEL - 1))
    return (ids if level == MAX_LEVEL else cell_parent(ids, level)).reshape(shape)


def _lowest_bit(ids: UInts) -> UInts:
    lowest: UInts = ids & np.negative(ids)
    return lowest


def cell_level(ids: UInts) -> Ints:
    """Level of each cell: 0, a cube face, to 30, about a square centimetre."""
    return MAX_LEVEL - np.bitwise_count(_lowest_bit(ids) - 1).astype(np.int64) // 2


def cell_parent(ids: UInts, level: int) -> UInts:
    """The cell of that level around each cell; ValueError where a cell is larger than the level's."""
    if not 0 <= level <= MAX_LEVEL:
        raise ValueError(f"level must be from 0 to {MAX_LEVEL}, not {level}")
    bit = np.uint64(1 << 2 * (MAX_LEVEL - level))
    if (_lowest_bit(ids) > bit).any():
        raise ValueError(f"some of the cells are larger than those of level {level}")
    parents: UInts = ids & np.negative(bit)
    return parents | bit


def range_min(ids: UInts) -> UInts:
    """The first leaf within each cell; a cell's leaves are the ids from range_min to range_max."""
    return ids - (_lowest_bit(ids) - 1)


def range_max(ids: UInts) -> UInts:
    """The last leaf within each cell."""
    return ids + (_lowest_bit(ids) - 1)


def to_tokens(ids: UInts) -> list[str]:
    """S2's short names of cells (N,): the id in hexadecimal without its trailing zeros."""
    return [f"{cell:016x}".rstrip("0") for cell in ids.tolist()]


def from_tokens(tokens: Sequence[str]) -> UInts:
    """Cell ids (N,) of N tokens; UserError names the first token that is none of a cell."""
    numbers = [int(t.ljust(16, "0"), 16) if re.fullmatch("[0-9a-f]{1,16}", t) else 0 for t in tokens]
    ids = np.array(numbers, np.uint64)
    wrong = np.flatnonzero((_lowest_bit(ids) & 0x1555555555555555 == 0) | (ids >> 61 > 5))
    if wrong.size:
        raise UserError(f"{tokens[wrong[0]]!r} is not the token of an S2 cell")
    return ids


def _unit_vectors(ids: UInts) -> Floats:
    """Centres (3, N) of cells (N,) as unit vectors x, y, z; undoes _encode and _project."""
    size = np.sqrt(_lowest_bit(ids).astype(np.float64))  # of the cell, in leaves
    position = (range_min(ids) >> 1).view(np.int64)
    negative, axis = np.divmod(position >> 2 * MAX_LEVEL, 3)
    state = ((axis & 1) << 2 * _BITS).astype(np.uint16)
    ij = np.zeros((2, ids.size), np.int64)
    for shift in _SHIFTS:
        packed = _DECODE.take(((position >> 2 * shift) & _PAIR) | state, mode="wrap")
        state = packed & ~np.uint16(_PAIR)
        ij <<= _BITS
        ij[0] |= (packed >> _BITS) & _DIGIT
        ij[1] |= packed & _DIGIT
    low = ij & -size.astype(np.int64)
    # With q = 2s - 1, from -1 to 1, S2's inverse transform is u = q (2 + |q|) / 3 for either sign.
    q = (2.0 * low + size) / (2.0 * _HALF) - 1.0
    u, v = q * (2.0 + np.abs(q)) / 3.0
    x = np.where(axis == 0, 1.0, -u)
    y = np.where(axis == 1, 1.0, np.where(axis == 0, u, -v))
    z = np.where(axis == 2, 1.0, v)
    vectors: Floats = np.stack([x, y, z]) * ((1.0 - 2.0 * negative) / np.sqrt(1.0 + u * u + v * v))
    return vectors


def _to_degrees(xyz: Floats) -> tuple[Floats, Floats]:
    x, y, z = xyz + 0.0  # not -0.0, which would turn the longitude around
    return np.degrees(np.arctan2(z, np.hypot(x, y))), np.degrees(np.arctan2(y, x))


def cell_center(ids: UInts) -> tuple[Floats, Floats]:
    """Latitude (N,) and longitude (N,), in degrees, of the centres of cells (N,)."""
    return _to_degrees(_unit_vectors(ids))


@dataclass(frozen=True)
class PartitionSettings:
    """A cell of more than `max_photos` (PlaNet's t1) is split, one of fewer than `min_photos` (t2) dropped.

    Above `min_level` cells are split whatever they hold, at `max_level` never. UserError for contradictions.
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
    """The kept cells (N,) in order, and where in the sorted `leaves` the photos of each begin and end."""
    cells: UInts = np.arange(1, 12, 2, dtype=np.uint64) << np.uint64(60)
    done = []
    for level in range(settings.max_level + 1):
        begin: Ints = np.searchsorted(leaves, range_min(cells), side="left")
        end: Ints = np.searchsorted(leaves, range_max(cells), side="right")
        # A cell with too few photos has no descendant with enough, so it goes even if it should be split.
        kept = end - begin >= settings.min_photos
        cells, begin, end = cells[kept], begin[kept], end[kept]
        split = (end - begin > settings.max_photos) | (level < settings.min_level)
        split &= level < settings.max_level
        done.append((cells[~split], begin[~split], end[~split]))
        bit = _lowest_bit(cells[split])[:, None] >> 2  # a child's
        cells = (cells[split][:, None] + bit * np.array([-3, -1, 1, 3]).astype(np.uint64)).reshape(-1)
    ids, first, last = (np.concatenate(column) for column in zip(*done, strict=True))
    order = np.argsort(ids)
    return ids[order], first[order], last[order]


def _mean_positions(leaves: UInts, begin: Ints, end: Ints) -> tuple[Floats, Floats]:
    """Spherical mean, in degrees, of leaves[begin:end] for each pair of bounds (N,), which are in order."""
    bounds = np.stack([begin, end], axis=1).reshape(-1)
    sums = np.zeros((3, begin.size))
    for part in _chunks(leaves.size):
        # The bounds cut the chunk into runs that lie by turns outside and inside of a kept cell.
        first, last = np.searchsorted(end, part.start, side="right"), np.searchsorted(begin, part.stop)
        cuts = np.clip(bounds[2 * first : 2 * last], part.start, part.stop)
        lengths = np.diff(cuts, prepend=part.start, append=part.stop)
        run = np.repeat(np.arange(lengths.size), lengths)
        for total, values in zip(sums, _unit_vectors(leaves[part]), strict=True):
            total[first:last] += np.bincount(run, values, minlength=lengths.size)[1::2]
    # A cell is at most a cube face, all of it within 55 degrees of the face's middle: no sum is near 0.
    latitude, longitude = _to_degrees(sums)
    return np.round(latitude, 7) + 0.0, np.round(longitude, 7) + 0.0


@dataclass(frozen=True, eq=False)
class Partition:
    """Disjoint cells in the order of their ids, each with its photos' number and mean position.

    ids, counts, latitude and longitude are (N,); the positions are spherical means in degrees, rounded to
    7 digits (a centimetre). `photos` counts all that the partition was made of, dropped ones included.
    """

    settings: PartitionSettings
    photos: int
    ids: UInts
    counts: Ints
    latitude: Floats
    longitude: Floats

    @classmethod
    def build(cls, latitude: ArrayLike, longitude: ArrayLike, settings: PartitionSettings) -> Partition:
        """UserError for bad positions, for none at all, and where the settings leave no cell."""
        return Hierarchy.build(latitude, longitude, [settings]).partitions[0]

    @classmethod
    def from_leaves(cls, leaves: UInts, settings: PartitionSettings) -> Partition:
        """From sorted leaf ids (N,), 8 bytes a photo, memory-mapped or not; errors as those of build."""
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
        """Index (N,) of the partition's cell around each of the cells (N,) of any level, -1 where none is."""
        begin, end = self._bounds
        index = np.empty(ids.size, np.int64)
        for part in _chunks(ids.size):
            place = np.searchsorted(begin, range_min(ids[part]), side="right") - 1
            index[part] = np.where((place >= 0) & (range_max(ids[part]) <= end[place]), place, -1)
        return index

    def assign(self, latitude: ArrayLike, longitude: ArrayLike) -> Ints:
        """Index of the cell that holds each position, of the inputs' shape, -1 where it was dropped."""
        ids = cell_ids(latitude, longitude)
        return self.find(ids.reshape(-1)).reshape(ids.shape)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes CSV below a readable header; a reader never sees half a file."""
        header = {"format": _FORMAT, **asdict(self.settings), "photos": self.photos}
        header |= {"kept": int(self.counts.sum()), "cells": len(self)}
        rows = zip(to_tokens(self.ids), self.counts, self.latitude, self.longitude, strict=True)
        lines = [f"# {key}: {value}" for key, value in header.items()] + [_COLUMNS]
        lines += [f"{token},{count},{lat:.7f},{lon:.7f}" for token, count, lat, lon in rows]
        temporary = Path(path).with_name(f".{Path(path).name}.{os.getpid()}")
        try:
            temporary.write_text("\n".join(lines) + "\n", encoding="ascii")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Partition:
        """UserError says what is wrong with a file that is missing, damaged or something else."""
        try:
            return cls._parse(Path(path).read_text(encoding="ascii"))
        except OSError as error:
            raise UserError(f"cannot read the partition {path}: {error.strerror}") from error
        except (ValueError, OverflowError, UserError) as error:
            raise UserError(f"{path} is not a sound partition file: {error}") from error

    @classmethod
    def _parse(cls, text: str) -> Partition:
        header = dict(re.findall(r"^# (\w+): (.*)$", text, re.MULTILINE))
        if header.get("format") != _FORMAT:
            raise ValueError(f"it does not begin with '# format: {_FORMAT}'")
        names = [field.name for field in fields(PartitionSettings)]
        if missing := {*names, "photos", "kept", "cells"} - header.keys():
            raise ValueError(f"its header lacks {', '.join(sorted(missing))}")
        rows = [line.split(",") for line in text.splitlines()[len(header) + 1 :]]
        whole = bool(rows) and len(rows) == int(header["cells"]) and text.endswith("\n")
        if not whole or any(len(row) != 4 for row in rows):
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
        _check_positions(*positions)
        return partition


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """Partitions of the same photos, coarse to fine, for heads whose probabilities are multiplied.

    The probability of a fine cell is its own times that of the coarser cell around it in each other head.
    With settings in order (towards finer, max_photos never rises, min_photos, min_level and max_level never
    fall) each fine cell lies in one kept cell of every coarser partition. Otherwise the coarse cell may have
    been dropped, or be smaller than the fine one, and its index is -1: that head knows nothing of the fine
    cell, so its factor has to be masked (0, or left out), for -1 would index the head's last cell.
    """

    partitions: tuple[Partition, ...]

    @classmethod
    def build(
        cls, latitude: ArrayLike, longitude: ArrayLike, all_settings: Sequence[PartitionSettings]
    ) -> Hierarchy:
        """Positions become cells and are sorted once for all settings; errors as those of Partition.build."""
        leaves = cell_ids(latitude, longitude).reshape(-1)
        leaves.sort()
        return cls(tuple(Partition.from_leaves(leaves, settings) for settings in all_settings))

    @cached_property
    def parents(self) -> Ints:
        """Index (P - 1, N), in each of the P - 1 coarser partitions, of the cell around each finest cell."""
        finest = self.partitions[-1].ids
        return np.array([p.find(finest) for p in self.partitions[:-1]], np.int64).reshape(-1, finest.size)

    def assign(self, latitude: ArrayLike, longitude: ArrayLike) -> Ints:
        """Indices (N, P) of the cells in all P partitions that hold N positions, -1 where dropped."""
        ids = cell_ids(latitude, longitude).reshape(-1)
        return np.stack([partition.find(ids) for partition in self.partitions], axis=1)
