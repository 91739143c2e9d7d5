"""Losses and metrics of embeddings against plain loops and torchmetrics."""

import math
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchmetrics.functional.classification import binary_auroc

from backbones.cost import measure_cost
from backbones.mobilenet_v1 import MobileNetV1
from data.identities import Pairs
from tasks.embedding.losses import MarginHead, semi_hard_triplet
from tasks.embedding.model import EmbeddingNet
from tasks.embedding.task import EmbeddingTask
from tasks.embedding.verification import Roc, best_threshold, lfw_accuracy, recalls
from tasks.engine.config import load_config


def some(count: int, dim: int, people: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors scattered around a centre for each person."""
    rng = np.random.default_rng(seed)
    who = rng.integers(people, size=count)
    found = rng.normal(size=(people, dim))[who] + rng.normal(size=(count, dim))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32), who


def test_the_embedding_has_length_one_and_the_loss_is_the_squared_difference() -> None:
    torch.manual_seed(0)
    net = EmbeddingNet(MobileNetV1(0.25), 16).eval()
    found = net(net.preprocess(torch.randint(0, 256, (3, 3, 64, 64))))
    assert found.shape == (3, 16)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    teacher = F.normalize(torch.randn(3, 16), dim=1)
    expected = sum(float(((a - b) ** 2).sum()) for a, b in zip(found, teacher, strict=True)) / 3
    assert float(net.loss(found, teacher)) == pytest.approx(expected, rel=1e-5)


def test_the_margin_heads_gradients_are_clipped_too() -> None:
    settings = load_config(["task=embedding", "data=demo_people", "backbone.alpha=0.25", "task.dim=8"])
    task = EmbeddingTask(settings, [str(i) for i in range(10)])
    assert task.head is not None
    for parameter in task.parameters():
        parameter.grad = torch.ones_like(parameter)
    task.configure_gradient_clipping()
    squares = [parameter.grad.square().sum() for parameter in task.parameters() if parameter.grad is not None]
    assert float(torch.stack(squares).sum().sqrt()) == pytest.approx(settings["trainer"]["grad_clip"], rel=1e-3)


def test_triplets_are_compared_in_float32() -> None:
    vectors, people = some(12, 16, 3)
    found = torch.from_numpy(vectors), torch.from_numpy(people), 0.1
    with torch.autocast("cpu", torch.bfloat16):
        mixed = semi_hard_triplet(*found)
    assert float(mixed) == float(semi_hard_triplet(*found))


def test_semi_hard_triplets_are_a_plain_loop() -> None:
    vectors, people = some(12, 4, 3)
    distance = [[float(((a - b) ** 2).sum()) for b in vectors] for a in vectors]
    terms = []
    for a in range(12):
        for p in range(12):
            if a == p or people[a] != people[p]:
                continue
            others = [distance[a][n] for n in range(12) if people[n] != people[a]]
            farther = [d for d in others if d > distance[a][p]]
            terms.append(max(0.0, distance[a][p] - (min(farther) if farther else max(others)) + 0.5))
    found = semi_hard_triplet(torch.from_numpy(vectors), torch.from_numpy(people), 0.5)
    assert float(found) == pytest.approx(np.mean(terms), rel=1e-4)


def test_a_batch_without_triplets_teaches_nothing() -> None:
    vectors = F.normalize(torch.randn(4, 3), dim=1).requires_grad_()
    for people in (torch.zeros(4, dtype=torch.long), torch.arange(4)):
        loss = semi_hard_triplet(vectors, people, 0.2)
        loss.backward()
        assert float(loss) == 0
    assert vectors.grad is not None
    assert vectors.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["arcface", "cosface"])
def test_margins_are_a_plain_loop(kind: Literal["arcface", "cosface"]) -> None:
    torch.manual_seed(0)
    head = MarginHead(5, 4, kind, margin=0.3, scale=10)
    vectors, people = F.normalize(torch.randn(6, 5), dim=1), torch.tensor([0, 1, 2, 3, 0, 1])
    total = 0.0
    for vector, person in zip(vectors, people.tolist(), strict=True):
        cosines = [float(vector @ c / c.norm()) for c in head.centres]
        right = cosines[person]
        cosines[person] = right - 0.3 if kind == "cosface" else math.cos(math.acos(right) + 0.3)
        powers = [math.exp(10 * c) for c in cosines]
        total -= math.log(powers[person] / sum(powers))
    assert float(head(vectors, people)) == pytest.approx(total / 6, rel=1e-4)


def test_arcface_past_half_a_turn_still_pulls() -> None:
    head = MarginHead(2, 2, "arcface", margin=0.5, scale=10)
    head.centres.data = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    losses = [float(head(torch.tensor([[math.cos(a), math.sin(a)]]), torch.tensor([0]))) for a in (0.05, 0.4, 0.8)]
    assert losses[0] > losses[1] > losses[2]


def test_the_roc_is_a_plain_loop_over_pairs() -> None:
    vectors, people = some(60, 8, 6)
    pairs = [(float(vectors[i] @ vectors[j]), people[i] == people[j]) for i in range(60) for j in range(i)]
    roc = Roc.of(vectors, people)
    genuine, impostor = [c for c, same in pairs if same], [c for c, same in pairs if not same]
    assert (roc.genuine, roc.impostor) == (len(genuine), len(impostor))
    for far in (0.1, 0.01):
        thresholds = [t for t in [*genuine, *impostor] if np.mean(np.array(impostor) >= t) <= far]
        assert roc.tar_at(far) == pytest.approx(max(np.mean(np.array(genuine) >= t) for t in thresholds), abs=0.005)
    cosine, same = (torch.tensor([p[k] for p in pairs]) for k in (0, 1))
    assert roc.summary()["auc"] == pytest.approx(float(binary_auroc((cosine + 1) / 2, same.long())), abs=1e-3)
    assert "tar_far1e-4" not in roc.summary()  # 1770 pairs are too few


def test_lfw_protocol_is_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    same = np.tile([True] * 5 + [False] * 5, 4)
    cosine = np.where(same, 0.5, 0.1) + rng.normal(0, 0.3, 40)
    folds = np.repeat(np.arange(4), 10)
    accuracies = []
    for fold in range(4):
        train, test = folds != fold, folds == fold
        best = max(((cosine[train] >= t) == same[train]).mean() for t in np.sort(cosine))
        chosen = best_threshold(cosine[train], same[train])
        assert ((cosine[train] >= chosen) == same[train]).mean() == pytest.approx(best)
        accuracies.append(((cosine[test] >= chosen) == same[test]).mean())
    found = lfw_accuracy(cosine, Pairs(np.zeros((40, 2), int), same, folds))
    assert found == pytest.approx((np.mean(accuracies), np.std(accuracies)))


def test_equal_similarities_are_not_parted() -> None:
    assert best_threshold(np.array([0.5, 0.5, 0.5]), np.array([True, False, False])) > 0.5


def test_recall_is_a_plain_loop() -> None:
    vectors, people = some(30, 6, 12)
    expected = {}
    for k in (1, 5, 10):
        hits = []
        for i in range(30):
            if (people == people[i]).sum() > 1:
                order = [j for j in np.argsort(-(vectors @ vectors[i])) if j != i]
                hits.append(any(people[j] == people[i] for j in order[:k]))
        expected[k] = np.mean(hits)
    assert recalls(vectors, people) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("alpha", "resolution", "madds"),
    [(1.0, 160, 289.651), (1.0, 128, 185.377), (0.75, 160, 165.629), (0.75, 128, 106.002)],
)
def test_costs_of_table_14(alpha: float, resolution: int, madds: float) -> None:
    """The body costs as much as the classifier of 1000 classes without its last layer; the head is added."""
    cost = measure_cost(EmbeddingNet(MobileNetV1(alpha), 128), resolution)
    head = int(1024 * alpha) * 128
    assert round((cost.madds - head) / 1e6, 3) == madds
    body = {1.0: 4_231_976, 0.75: 2_585_560}[alpha] - (int(1024 * alpha) + 1) * 1000
    assert cost.params == body + head + 128
