"""S2 cell ids for whole arrays.

The cells and their numbering are those of the S2 geometry library (https://s2geometry.io, its quadratic
projection). An id is a uint64: 3 bits of cube face, two bits a level of position along a Hilbert curve, a 1,
then zeros. Positions are in degrees, latitude from -90 to 90 and longitude from -180 to 180.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from backbones.errors import UserError

MAX_LEVEL = 30
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
UInts = NDArray[np.uint64]
Floats = NDArray[np.float64]

_CHUNK = 1 << 15  # positions at once: enough to hide numpy's cost per call, few enough for the cache
# Leaf coordinates this near (in leaf cells) to an edge are computed again exactly as S2 does. The fast way is
# wrong by some 1e-15 of a cube face, which is 1e-6 of a leaf cell: this leaves a factor of 100.
_EDGE = 1e-4
_HALF = 2.0 ** (MAX_LEVEL - 1)  # half a cube face, in leaf cells
_SIGN = np.int64(-(2**63))

# The Hilbert curve. An orientation has two bits: 1 = i and j exchanged, 2 = both reversed. By orientation and
# place along the curve, _QUADRANTS is the quadrant (2 * i + j), and _TURNS the change of the orientation within
# it. Six levels are looked up at once: five steps for a leaf, from a table of 32 KiB.
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
    """Unit vectors by exactly the operations of S2, so that every bit agrees."""
    phi, theta = latitude * (np.pi / 180), longitude * (np.pi / 180)
    cosine = np.cos(phi)
    return np.cos(theta) * cosine, np.sin(theta) * cosine, np.sin(phi)


def _direction_fast(latitude: Floats, longitude: Floats) -> tuple[Floats, Floats, Floats]:
    """Vectors of any length in the same directions, correct to some 1e-15.

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
    """Axis (N,), sign (N,) and leaf coordinates (2, N) of directions, and which are too near to an edge (N,)."""
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


def chunks(size: int) -> Iterator[slice]:
    """Slices that divide 0..size into pieces that fit the cache."""
    return (slice(start, min(start + _CHUNK, size)) for start in range(0, size, _CHUNK))


def check_positions(latitude: NDArray[Any], longitude: NDArray[Any]) -> None:
    """Raises UserError, which counts the positions (N,) out of range and names the first, if there are any."""
    bad = np.flatnonzero(~((np.abs(latitude) <= 90) & (np.abs(longitude) <= 180)))  # nan is bad too
    if bad.size:
        raise UserError(
            f"{bad.size:,} of {latitude.size:,} positions are not numbers or not within latitude -90 to 90, "
            f"longitude -180 to 180; first row {bad[0]} (from 0): {latitude[bad[0]]}, {longitude[bad[0]]}"
        )


def cell_ids(latitude: ArrayLike, longitude: ArrayLike) -> UInts:
    """Ids of the S2 leaf cells, of the inputs' shape, bit for bit those of the S2 library.

    Needs 9 bytes a position beyond the inputs (at most 40 where most positions lie on edges of cells). Two ways of
    computing share the work: a fast one whose error is bounded, and the exact one for the few positions that this
    error could put into the neighbouring cell.

    Raises:
        UserError: a position is not a number or out of range.
    """
    lat, lon = np.asarray(latitude), np.asarray(longitude)
    if lat.shape != lon.shape:
        raise ValueError(f"latitude and longitude differ in shape: {lat.shape} and {lon.shape}")
    shape, lat, lon = lat.shape, lat.reshape(-1), lon.reshape(-1)
    ids, near_edge = np.empty(lat.size, np.uint64), [np.empty(0, np.int64)]
    for part in chunks(lat.size):
        phi, theta = lat[part].astype(np.float64, copy=False), lon[part].astype(np.float64, copy=False)
        if not (-90 <= phi.min() <= phi.max() <= 90 and -180 <= theta.min() <= theta.max() <= 180):
            check_positions(lat, lon)
        axis, negative, ij, edge = _project(*_direction_fast(phi, theta))
        ids[part] = _encode(axis, negative, ij)
        near_edge.append(np.flatnonzero(edge) + part.start)
    again = np.concatenate(near_edge)
    for part in chunks(again.size):
        rows = again[part]
        phi, theta = lat[rows].astype(np.float64), lon[rows].astype(np.float64)
        axis, negative, ij, _ = _project(*_direction_exact(phi, theta))
        ids[rows] = _encode(axis, negative, np.minimum(ij, 2**MAX_LEVEL - 1))
    return ids.reshape(shape)


def lowest_bit(ids: UInts) -> UInts:
    """The lowest set bit of each id, which is the number of the cell's leaves, and so depends on its level."""
    lowest: UInts = ids & np.negative(ids)
    return lowest


def range_min(ids: UInts) -> UInts:
    """The first leaf within each cell; a cell's leaves are the ids from range_min to range_max."""
    return ids - (lowest_bit(ids) - 1)


def range_max(ids: UInts) -> UInts:
    """The last leaf within each cell."""
    return ids + (lowest_bit(ids) - 1)


def to_tokens(ids: UInts) -> list[str]:
    """S2's short names of cells (N,): the id in hexadecimal without its trailing zeros."""
    return [f"{cell:016x}".rstrip("0") for cell in ids.tolist()]


def from_tokens(tokens: Sequence[str]) -> UInts:
    """Cell ids (N,) of N tokens; UserError names the first invalid token."""
    numbers = [int(t.ljust(16, "0"), 16) if re.fullmatch("[0-9a-f]{1,16}", t) else 0 for t in tokens]
    ids = np.array(numbers, np.uint64)
    wrong = np.flatnonzero((lowest_bit(ids) & 0x1555555555555555 == 0) | (ids >> 61 > 5))
    if wrong.size:
        raise UserError(f"{tokens[wrong[0]]!r} is not the token of an S2 cell")
    return ids


def cell_vectors(ids: UInts, offset: tuple[float, float] = (0.5, 0.5)) -> Floats:
    """Unit vectors x, y, z (3, N) of a point in each cell (N,), at `offset` (0 to 1) along i and j, or its centre.

    Undoes _encode and _project.
    """
    size = np.sqrt(lowest_bit(ids).astype(np.float64))  # of the cell, in leaves
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
    q = (low + size * np.array(offset)[:, None]) / _HALF - 1.0
    u, v = q * (2.0 + np.abs(q)) / 3.0
    x = np.where(axis == 0, 1.0, -u)
    y = np.where(axis == 1, 1.0, np.where(axis == 0, u, -v))
    z = np.where(axis == 2, 1.0, v)
    vectors: Floats = np.stack([x, y, z]) * ((1.0 - 2.0 * negative) / np.sqrt(1.0 + u * u + v * v))
    return vectors


def to_degrees(xyz: Floats) -> tuple[Floats, Floats]:
    """Latitude (N,) and longitude (N,), in degrees, of directions (3, N) of any length."""
    x, y, z = xyz + 0.0  # not -0.0, which would turn the longitude around
    return np.degrees(np.arctan2(z, np.hypot(x, y))), np.degrees(np.arctan2(y, x))


def cell_corners(ids: UInts, steps: int = 4) -> Floats:
    """Points (N, 4 * steps, 2) around the edges of cells (N,), in degrees: latitude and longitude."""
    along, zero = np.arange(steps) / steps, np.zeros(steps)
    i = np.concatenate([along, zero + 1, 1 - along, zero])
    j = np.concatenate([zero, along, zero + 1, 1 - along])
    points = [
        np.stack(to_degrees(cell_vectors(ids, offset)), axis=1) for offset in zip(i.tolist(), j.tolist(), strict=True)
    ]
    return np.stack(points, axis=1)
