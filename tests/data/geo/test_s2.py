"""Cell ids against the S2 library."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from backbones.errors import UserError
from data.geo import s2 as ours
from data.geo.s2 import UInts, cell_ids

LATITUDES = st.floats(-90, 90)
LONGITUDES = st.floats(-180, 180)


@pytest.fixture(scope="module")
def s2() -> Any:
    return pytest.importorskip("s2geometry", reason="needs Google's s2geometry package to compare with")


def random_positions(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return np.degrees(np.arcsin(rng.uniform(-1, 1, count))), rng.uniform(-180, 180, count)


def awkward_positions() -> tuple[np.ndarray, np.ndarray]:
    """Poles, antimeridian, face and cell edges, and the floats next to each of them."""
    corner = np.degrees(np.arctan(np.sqrt(0.5)))  # latitude of the cube's corners
    latitude = np.array([-90, -60, -45, -corner, -30, -1e-300, 0, 1e-12, corner, 45, 80, 90])
    longitude = np.array([-180, -135, -90, -45, -0.0, 1e-12, 22.5, 45, 90, 135, 180])
    latitude = np.unique(np.clip([latitude, np.nextafter(latitude, -99), np.nextafter(latitude, 99)], -90, 90))
    longitude = np.clip([longitude, np.nextafter(longitude, -999), np.nextafter(longitude, 999)], -180, 180)
    grid = np.meshgrid(latitude, np.unique(longitude))
    return grid[0].reshape(-1), grid[1].reshape(-1)


def cells_at(latitude: ArrayLike, longitude: ArrayLike, level: int) -> UInts:
    """The cells of a level that contain positions: a leaf's id with a 1 in place of the finer levels' bits."""
    bit = np.uint64(1 << 2 * (30 - level))
    cells: UInts = (cell_ids(latitude, longitude) & np.negative(bit)) | bit
    return cells


# --- ids against the S2 library ------------------------------------------------------------------------


@pytest.mark.parametrize("positions", [random_positions(100_000), awkward_positions()], ids=["random", "awkward"])
def test_ids_are_those_of_s2_bit_for_bit(s2: Any, positions: tuple[np.ndarray, np.ndarray]) -> None:
    latitude, longitude = positions
    pairs = zip(latitude.tolist(), longitude.tolist(), strict=True)
    leaves = [s2.S2CellId(s2.S2LatLng.FromDegrees(*pair)) for pair in pairs]
    np.testing.assert_array_equal(cell_ids(latitude, longitude), np.array([c.id() for c in leaves], np.uint64))
    for level in (0, 1, 7, 13, 24, 29):
        some = slice(0, 20_000)
        expected = np.array([cell.parent(level).id() for cell in leaves[some]], np.uint64)
        np.testing.assert_array_equal(cells_at(latitude[some], longitude[some], level), expected)


def test_fast_way_errs_far_less_than_its_allowance() -> None:
    latitude, longitude = (
        np.concatenate(pair) for pair in zip(random_positions(200_000), awkward_positions(), strict=True)
    )
    exact = np.array(ours._direction_exact(latitude, longitude))
    fast = np.array(ours._direction_fast(latitude, longitude))
    error = np.abs(exact - fast / np.linalg.norm(fast, axis=0)).max()
    # u = y / x with x of at least 0.577, and a leaf coordinate is at most 2^30 * 3/4 times as sensitive.
    assert error * 2 / 0.577 * 0.75 * 2**30 < ours._EDGE / 10


def test_functions_of_cells_are_those_of_s2(s2: Any) -> None:
    latitude, longitude = random_positions(3000)
    for level in (0, 1, 2, 11, 12, 29, 30):
        ids = cells_at(latitude, longitude, level)
        theirs = [s2.S2CellId(cell) for cell in ids.tolist()]
        assert [cell.level() for cell in theirs] == [level] * 3000
        assert set(ours.lowest_bit(ids).tolist()) == {1 << 2 * (30 - level)}
        assert ours.range_min(ids).tolist() == [cell.range_min().id() for cell in theirs]
        assert ours.range_max(ids).tolist() == [cell.range_max().id() for cell in theirs]
        assert ours.to_tokens(ids) == [cell.ToToken() for cell in theirs]
        centers = [cell.ToLatLng() for cell in theirs]
        latitudes, longitudes = ours.to_degrees(ours.cell_vectors(ids))
        np.testing.assert_allclose(latitudes, [c.lat().degrees() for c in centers], rtol=0, atol=1e-12)
        np.testing.assert_allclose(longitudes, [c.lng().degrees() for c in centers], rtol=0, atol=1e-12)


def test_known_cells() -> None:
    assert ours.to_tokens(cells_at([0.0, 48.8584], [0.0, 2.2945], 10)) == ["100001", "47e66f"]
    assert ours.to_tokens(cells_at([90.0, -90.0], [0.0, 0.0], 0)) == ["5", "b"]


# --- properties of ids ---------------------------------------------------------------------------------


@given(LATITUDES, LONGITUDES, st.integers(0, 30), st.integers(0, 30))
def test_parent_contains_child(latitude: float, longitude: float, one: int, other: int) -> None:
    coarse, fine = sorted((one, other))
    child, parent = (cells_at([latitude], [longitude], level) for level in (fine, coarse))
    assert ours.range_min(parent) <= ours.range_min(child) <= child <= ours.range_max(child)
    assert ours.range_max(child) <= ours.range_max(parent)


@given(LATITUDES, LONGITUDES, st.integers(0, 30))
def test_token_and_centre_lead_back_to_the_cell(latitude: float, longitude: float, level: int) -> None:
    ids = cells_at([latitude], [longitude], level)
    assert ours.from_tokens(ours.to_tokens(ids)) == ids
    assert cells_at(*ours.to_degrees(ours.cell_vectors(ids)), level) == ids


def test_shape_and_number_type_of_the_input_do_not_matter() -> None:
    latitude, longitude = random_positions(12)
    latitude, longitude = latitude.astype(np.float32), longitude.astype(np.float32)
    expected = cell_ids(latitude.astype(np.float64), longitude.astype(np.float64))
    np.testing.assert_array_equal(cell_ids(latitude.reshape(3, 4), longitude.reshape(3, 4)), expected.reshape(3, 4))
    assert cell_ids(latitude[0], longitude[0]).shape == ()
    assert cell_ids(45, 90).item() == cell_ids([45.0], [90.0])[0]
    assert cell_ids([], []).shape == (0,)


def test_positions_on_edges_are_computed_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    latitude, longitude = awkward_positions()
    expected = cell_ids(latitude, longitude)
    monkeypatch.setattr(ours, "_CHUNK", 7)
    np.testing.assert_array_equal(cell_ids(latitude, longitude), expected)


def test_impossible_arguments_fail() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        cell_ids([1.0, 2.0], [1.0])


@pytest.mark.parametrize("token", ["", "X", "z", "f", "10000000000000000", "1 ", "0", "2000000000000002"])
def test_bad_tokens_are_named(token: str) -> None:
    with pytest.raises(UserError) as caught:
        ours.from_tokens(["89c25", token])
    assert str(caught.value) == f"{token!r} is not the token of an S2 cell"
