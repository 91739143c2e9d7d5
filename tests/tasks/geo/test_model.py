"""Distances, the hierarchical classifier and the density, against plain computations."""

import itertools
import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.overrides import TorchFunctionMode

from backbones.mobilenet_v1 import MobileNetV1
from data.geo.cells import Hierarchy, PartitionSettings
from data.geo.places import GeoBatch
from data.geo.s2 import cell_corners
from data.geo.sphere import great_circle_km, positions_of, unit_vectors
from tasks.engine.config import load_config
from tasks.gallery.density import densest, neighbour_weights
from tasks.gallery.gallery import Neighbours
from tasks.gallery.locate import Locator
from tasks.geo.maps import with_map
from tasks.geo.model import CellTable, GeoLocator
from tasks.geo.task import GeoTask, error_metrics
from tests.data.geo.test_s2 import cells_at

LATITUDES, LONGITUDES = st.floats(-90, 90), st.floats(-180, 180)


def haversine_km(one: tuple[float, float], other: tuple[float, float]) -> float:
    (a, b), (c, d) = (map(math.radians, position) for position in (one, other))
    h = math.sin((c - a) / 2) ** 2 + math.cos(a) * math.cos(c) * math.sin((d - b) / 2) ** 2
    return 2 * 6371.0088 * math.asin(min(1, math.sqrt(h)))


@given(LATITUDES, LONGITUDES, LATITUDES, LONGITUDES)
def test_distance_is_the_haversine(a: float, b: float, c: float, d: float) -> None:
    assert great_circle_km((a, b), (c, d)) == pytest.approx(haversine_km((a, b), (c, d)), abs=1e-3)


@given(LATITUDES, LONGITUDES)
def test_vectors_lead_back_to_positions(latitude: float, longitude: float) -> None:
    back = positions_of(unit_vectors((latitude, longitude)))
    assert great_circle_km(back, (latitude, longitude)) < 1e-6


def test_known_distances() -> None:
    assert great_circle_km((0, 0), (0, 90)) == pytest.approx(10_007.557, abs=1e-3)
    assert great_circle_km((90, 0), (-90, 0)) == pytest.approx(20_015.115, abs=1e-3)
    assert great_circle_km((48.8584, 2.2945), (51.5007, -0.1246)) == pytest.approx(340.6, abs=1)
    assert great_circle_km((10, 179.9), (10, -179.9)) < 25


def test_metrics_by_hand() -> None:
    found = error_metrics(np.array([0.5, 25.0, 26.0, 700.0, 9000.0]))
    assert [found[f"within_{km}km"] for km in (1, 25, 200, 750, 2500)] == [0.2, 0.4, 0.6, 0.8, 0.8]
    assert found["median_km"] == 26
    assert found["mean_share"] == pytest.approx(0.56)


def test_corners_are_those_of_s2() -> None:
    s2 = pytest.importorskip("s2geometry", reason="needs Google's s2geometry package to compare with")
    ids = cells_at([10.0, -60.0, 89.0], [20.0, -120.0, 5.0], 5)
    for corners, cell in zip(cell_corners(ids, 1), ids.tolist(), strict=True):
        theirs = [s2.S2LatLng(s2.S2Cell(s2.S2CellId(cell)).GetVertex(i)) for i in range(4)]
        wanted = np.array([(p.lat().degrees(), p.lng().degrees()) for p in theirs])
        near = great_circle_km(corners[:, None], wanted[None])
        assert near.min(axis=0).max() < 1e-6
        assert near.min(axis=1).max() < 1e-6


# --- the network ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hierarchy() -> Hierarchy:
    rng = np.random.default_rng(3)
    cities = np.stack([rng.uniform(-60, 60, 12), rng.uniform(-180, 180, 12)], axis=1)
    positions = cities[rng.integers(0, 12, 900)] + rng.normal(0, 2, (900, 2))
    settings = [PartitionSettings(200, 5), PartitionSettings(80, 5), PartitionSettings(30, 5)]
    return Hierarchy.build(positions[:, 0], (positions[:, 1] + 180) % 360 - 180, settings)


def network(hierarchy: Hierarchy, **settings: Any) -> GeoLocator:
    torch.manual_seed(0)
    return GeoLocator(MobileNetV1(0.25), CellTable.from_labels(hierarchy.labels), **settings).eval()


def test_labels_tell_a_model_all_of_its_cells(hierarchy: Hierarchy) -> None:
    table = CellTable.from_labels(hierarchy.labels)
    assert table.sizes == [len(p) for p in hierarchy.partitions]
    np.testing.assert_array_equal(table.parents, hierarchy.parents)
    finest = hierarchy.partitions[-1]
    np.testing.assert_allclose(
        table.positions[-len(finest) :], np.stack([finest.latitude, finest.longitude], 1), atol=1e-5
    )


def test_labels_lead_back_to_partitions(hierarchy: Hierarchy) -> None:
    back = Hierarchy.from_labels(hierarchy.labels)
    assert back.labels == hierarchy.labels
    positions = np.random.default_rng(0).uniform((-90, -180), (90, 180), (2000, 2)).T
    np.testing.assert_array_equal(back.assign(*positions), hierarchy.assign(*positions))


def test_probabilities_of_the_heads_multiply(hierarchy: Hierarchy) -> None:
    model = network(hierarchy)
    logits = torch.randn(4, sum(model.sizes), dtype=torch.float64)
    heads = [part.softmax(1).numpy() for part in logits.split(model.sizes, 1)]
    expected = np.empty((4, model.sizes[-1]))
    for photo in range(4):
        for cell in range(model.sizes[-1]):
            above = [heads[h][photo, hierarchy.parents[h, cell]] for h in range(2)]
            expected[photo, cell] = heads[2][photo, cell] * above[0] * above[1]
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.log_probabilities(logits).exp(), expected, rtol=1e-4, atol=1e-7)


def test_a_head_that_knows_nothing_of_a_cell_has_no_say(hierarchy: Hierarchy) -> None:
    model = network(hierarchy)
    model.parents[:] = -1
    logits = torch.randn(2, sum(model.sizes))
    fine = logits[:, -model.sizes[-1] :].softmax(1)
    torch.testing.assert_close(model.log_probabilities(logits).exp(), fine)


def test_best_cell_and_spherical_mean(hierarchy: Hierarchy) -> None:
    logits = torch.randn(3, sum(network(hierarchy).sizes))
    best = network(hierarchy, decode="best").postprocess(logits)
    finest = hierarchy.partitions[-1]
    chosen = best.cells[:, 0].numpy()
    means = np.stack([finest.latitude, finest.longitude], 1)
    assert great_circle_km(positions_of(best.directions), means[chosen]).max() < 1
    mean = network(hierarchy, decode="mean", top_cells=4).postprocess(logits)
    for i in range(3):
        vectors, shares = unit_vectors(means[mean.cells[i]]), mean.probabilities[i].numpy()
        assert great_circle_km(positions_of(mean.directions[i]), positions_of(shares @ vectors)) < 1
        assert (np.diff(shares) <= 0).all()
        assert len(shares) == 4


def test_the_loss_sums_the_heads_and_skips_photos_without_a_cell(hierarchy: Hierarchy) -> None:
    model = network(hierarchy)
    logits, positions = torch.randn(3, sum(model.sizes)), torch.zeros(3, 2)
    cells = torch.tensor([[0, 1, 2], [1, -1, -1], [2, 0, -1]])
    expected = 0.0
    for part, target in zip(logits.split(model.sizes, 1), cells.T, strict=True):
        own = [-math.log(part[i].softmax(0)[t]) for i, t in enumerate(target.tolist()) if t >= 0]
        expected += sum(own) / len(own)
    assert model.loss(logits, cells, positions).item() == pytest.approx(expected, rel=1e-5)
    assert model.loss(logits, torch.full((3, 3), -1), positions).item() == 0


def test_soft_labels_are_those_of_pigeon(hierarchy: Hierarchy) -> None:
    model = network(hierarchy, soft_km=75.0)
    position = (12.0, 179.9)
    logits = torch.randn(1, sum(model.sizes))
    expected, start = 0.0, 0
    table = CellTable.from_labels(hierarchy.labels)
    for size in model.sizes:
        distance = np.array([haversine_km(position, tuple(p)) for p in table.positions[start : start + size]])
        weight = np.exp(-(distance - distance.min()) / 75)
        log_p = logits[0, start : start + size].log_softmax(0).numpy()
        expected -= float((weight / weight.sum() * log_p).sum())
        start += size
    loss = model.loss(logits, torch.zeros(1, 3, dtype=torch.long), torch.tensor([position]))
    assert loss.item() == pytest.approx(expected, rel=1e-3)


def test_embeddings_have_length_one_and_need_no_head(hierarchy: Hierarchy) -> None:
    model = network(hierarchy)
    images = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    vectors = model.image_vectors(model.preprocess(images))
    assert vectors.shape == (2, 256)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))


def test_the_page_of_a_large_photo_fits_into_memory() -> None:
    page = with_map(Image.new("RGB", (3000, 4000), "red"), {"latitude": 10.0, "longitude": 20.0})
    assert page.size == (4096, 4096)
    assert page.getpixel((2048, 1024)) == (255, 0, 0)
    assert page.getpixel((100, 1024)) == (255, 255, 255)  # beside the photo, which keeps its aspect ratio


# --- density -------------------------------------------------------------------------------------------


def test_the_mode_is_that_of_a_fine_grid() -> None:
    rng = np.random.default_rng(5)
    positions = np.concatenate([rng.normal((20, 178), 2, (6, 2)), rng.normal((-30, 60), 4, (6, 2))])
    positions[:, 1] = (positions[:, 1] + 180) % 360 - 180
    weights = rng.uniform(0.5, 1.5, 12)
    mode = positions_of(densest(unit_vectors(positions)[None], weights[None], sigma_km=300, steps=30)[0])
    grid = np.stack(np.meshgrid(np.linspace(-45, 35, 401), np.arange(-180, 180, 0.2), indexing="ij"), axis=-1)
    density = sum(
        w * np.exp(-0.5 * (great_circle_km(grid, p) / 300) ** 2) for p, w in zip(positions, weights, strict=True)
    )
    best = grid.reshape(-1, 2)[np.argmax(density)]
    assert great_circle_km(mode, best) < 25  # the grid's step is some 20 km


def test_two_neighbours_that_agree_outvote_one_that_is_nearer_in_looks() -> None:
    positions = np.array([[0.0, 0.0], [50.0, 50.0], [50.5, 50.0]])
    weights = neighbour_weights(np.array([[0.9, 0.89, 0.89]]), sharpness=20)
    assert weights.sum() == pytest.approx(1)
    answer = positions_of(densest(unit_vectors(positions)[None], weights, 100)[0])
    assert great_circle_km(answer, (50.25, 50.0)) < 40
    sharp = neighbour_weights(np.array([[0.9, 0.89, 0.89]]), sharpness=1000)
    assert great_circle_km(positions_of(densest(unit_vectors(positions)[None], sharp, 100)[0]), (0, 0)) < 1


def test_fusion_is_the_share_of_the_classifier(hierarchy: Hierarchy) -> None:
    """With neighbours that are all at one place, far from the cells: 0 is retrieval, 1 the classifier alone."""
    model = network(hierarchy)
    logits = 3 * torch.randn(2, sum(model.sizes))

    def located(fusion: float, place: tuple[float, float]) -> np.ndarray:
        near = Neighbours(np.zeros((2, 5), np.int64), np.full((2, 5), 0.9), np.tile(place, (2, 5, 1)))
        locator = Locator(model, cast(Any, None), k=5, sigma_km=100, sharpness=10, fusion=fusion)
        return locator.combine(logits, near).positions["fusion"]

    north, south = (85.0, 120.0), (-80.0, 0.0)
    for fusion, place in itertools.product((0.0, 0.4), (north, south)):
        assert great_circle_km(located(fusion, place), place).max() < 1
    alone = located(1.0, north)
    assert great_circle_km(alone, located(1.0, south)).max() < 1e-3
    cells = CellTable.from_labels(hierarchy.labels).positions[-model.sizes[-1] :]
    assert great_circle_km(alone[:, None], cells).min(axis=1).max() < 100


class SingleOnly(TorchFunctionMode):
    """Like an Apple GPU, which has no float64: only tensors fetched to the CPU can be converted to it."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.double and not any(args[0] is tensor for tensor in self.fetched):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        found = func(*args, **(kwargs or {}))
        if func is Tensor.cpu:
            self.fetched.append(found)
        return found


def test_apples_gpus_train_and_measure() -> None:
    tiny = ["task=geo", "backbone.alpha=0.25", "task.resolution=32", "task.soft_km=100"]
    labels = Hierarchy.build([10.0, 50.0], [20.0, 60.0], [PartitionSettings(1, 1)]).labels
    module = GeoTask(load_config(tiny), labels).eval()
    module.build_metrics()
    images, one = torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.ones(2, 1, dtype=torch.int64)
    batch = GeoBatch(images, torch.full((2, 2), 32), [], torch.tensor([[10.0, 20.0], [50.0, 60.0]]), one, one[:, 0])
    with SingleOnly():
        assert module.compute_losses(batch)["cell"].isfinite()
        with torch.no_grad():
            module.update_metrics(batch)
        assert module.compute_metrics("val")["median_km"] >= 0
        assert [round(truth["latitude"]) for truth in module.ground_truth(batch)] == [10, 50]


@pytest.mark.parametrize(("rows", "count"), [([0, 1, 1], 2), ([-1, -1, -1], 3)])
def test_a_photo_that_replaces_an_unreadable_one_counts_once(rows: list[int], count: int) -> None:
    """Photos of a stream have no index, and all count."""
    labels = Hierarchy.build([10.0, 50.0], [20.0, 60.0], [PartitionSettings(1, 1)]).labels
    module = GeoTask(load_config(["task=geo", "backbone.alpha=0.25", "task.resolution=32"]), labels).eval()
    module.build_metrics()
    images, positions = torch.zeros(3, 3, 32, 32, dtype=torch.uint8), torch.tensor([[10.0, 20], [50, 60], [50, 60]])
    cells = torch.ones(3, 1, dtype=torch.int64)
    with torch.no_grad():
        module.update_metrics(GeoBatch(images, torch.full((3, 2), 32), [], positions, cells, torch.tensor(rows)))
    assert len(module.rows()) == count
