"""The demo set of the Earth: reproducible, true to the planet, and never half written."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbones.errors import UserError
from data.demo import earth


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "earth"
    earth.write_earth(folder, train=40, val=5, gallery=7, generated=True)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_same_seed_same_bytes_whatever_the_processes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    earth.write_earth(tmp_path / "one", train=40, val=5, gallery=7, generated=True)
    assert contents(tmp_path / "one") == contents(root)
    earth.write_earth(tmp_path / "two", train=40, val=5, gallery=7, generated=True, seed=1)
    assert not set(contents(tmp_path / "two").values()) & set(contents(root).values())


def test_each_split_has_its_table_and_photos(root: Path) -> None:
    for split, count in (("train", 40), ("val", 5), ("gallery", 7)):
        table = rows(root / f"{split}.csv")
        assert len(table) == len(list((root / split).iterdir())) == count
        for row in table:
            assert Image.open(root / row["path"]).size == (96, 96)
            assert -90 <= float(row["latitude"]) <= 90
            assert -180 <= float(row["longitude"]) <= 180


def test_photos_crowd_around_cities() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([earth.draw_position("generated", 0, rng) for _ in range(600)])
    where, reach, _ = earth.cities("generated", 0)
    # the positions on a plane are not exact: an independent haversine says how far away the cities are
    phi, theta = np.radians(drawn[:, None]).transpose(2, 0, 1)
    phi_c, theta_c = np.radians(where).T
    h = np.sin((phi - phi_c) / 2) ** 2 + np.cos(phi) * np.cos(phi_c) * np.sin((theta - theta_c) / 2) ** 2
    distance = 2 * 6371.0088 * np.arcsin(np.sqrt(h))
    near = (distance < 3 * reach).any(axis=1)
    assert 0.8 < near.mean() < 0.99


def test_a_view_shows_its_position_to_scale() -> None:
    """On a planet whose colours are its latitude and longitude."""
    latitude, longitude = np.meshgrid(np.linspace(89.5, -89.5, 180), np.linspace(-179.5, 179.5, 360), indexing="ij")
    planet = np.stack([latitude + 90, np.abs(longitude), np.zeros_like(latitude)], axis=2).astype(np.uint8)
    for place in ((0.0, 30.0), (50.0, -100.0), (-40.0, 60.0)):
        seen = earth.view(planet, *place, size=9, km=800, turn=0)
        assert seen[4, 4, 0] - 90 == pytest.approx(place[0], abs=1)
        assert seen[4, 4, 1] == pytest.approx(abs(place[1]), abs=1)
        degrees = np.degrees(800 * 8 / 9 / 6371)  # from the first pixel's middle to the last one's
        assert seen[0, 4, 0] - seen[8, 4, 0] == pytest.approx(degrees, abs=1)  # north is up
        across = (seen[4, 8, 1] - seen[4, 0, 1]) * np.sign(place[1])
        assert across == pytest.approx(degrees / np.cos(np.radians(place[0])), abs=1.5)  # east is right


def test_a_view_crosses_the_antimeridian_and_reaches_the_pole() -> None:
    planet = earth.generated_planet(200)
    left, right = (earth.view(planet, 10.0, longitude, 9, 300, 0) for longitude in (-180.0, 180.0))
    np.testing.assert_allclose(left, right, atol=1e-6)
    assert np.isfinite(earth.view(planet, 90.0, 0.0, 9, 300, 0)).all()


def test_land_is_where_photos_are() -> None:
    planet = earth.planet("generated")
    assert 0.2 < earth.is_land(planet).mean() < 0.6
    found = earth.land_positions(planet, 500, np.random.default_rng(1))
    assert earth.is_land(earth.lookup(planet, *found.T)).all()


def test_a_stopped_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            earth.write_earth(tmp_path / "earth", train=2, val=1, gallery=1, generated=True)
    assert not list(tmp_path.iterdir())


def test_a_complete_set_is_left_alone_and_another_refused(root: Path) -> None:
    before = contents(root)
    earth.write_earth(root, train=40, val=5, gallery=7, generated=True)
    with pytest.raises(UserError, match="delete it or name another folder"):
        earth.write_earth(root, train=40, val=5, gallery=7, generated=True, seed=1)
    assert contents(root) == before


def test_torch_is_not_needed() -> None:
    code = "import sys, data.demo.earth; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
