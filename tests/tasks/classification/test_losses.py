"""Losses against plain loops and torch's own."""

import math

import pytest
import torch
import torch.nn.functional as F

from backbones.mobilenet_v1 import MobileNetV1
from tasks.classification.losses import distillation, generalized_cross_entropy, target_probabilities
from tasks.classification.model import Classifier


def test_label_smoothing_is_torchs() -> None:
    torch.manual_seed(0)
    model = Classifier(MobileNetV1(0.25), 5, label_smoothing=0.1)
    logits, labels = torch.randn(7, 5), torch.randint(5, (7,))
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(model.loss(logits, labels), expected)
    torch.testing.assert_close(model.loss(logits, F.one_hot(labels, 5).float()), expected)


@pytest.mark.parametrize("q", [0.3, 0.7, 1.0])
def test_generalized_cross_entropy_is_a_plain_loop(q: float) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 4, dtype=torch.float64), torch.randint(4, (6,))
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        p = math.exp(row[label]) / sum(map(math.exp, row))
        total += (1 - p**q) / q
    loss = generalized_cross_entropy(logits, target_probabilities(labels, 4, 0.0), q)
    assert float(loss) == pytest.approx(total / 6, rel=1e-5)


def test_generalized_cross_entropy_becomes_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 4), torch.randint(4, (6,))
    loss = generalized_cross_entropy(logits, target_probabilities(labels, 4, 0.0), 1e-3)
    assert float(loss) == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-2)


def test_a_sure_disagreement_has_a_finite_gradient() -> None:
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    generalized_cross_entropy(logits, torch.tensor([[0.0, 1.0]]), 0.7).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_distillation_is_the_divergence() -> None:
    torch.manual_seed(0)
    student, teacher, temperature = torch.randn(3, 5), torch.randn(3, 5), 2.5
    total = 0.0
    for s, t in zip(student / temperature, teacher / temperature, strict=True):
        p, q = t.softmax(0), s.softmax(0)
        total += float((p * (p / q).log()).sum())
    found = float(distillation(student, teacher, temperature))
    assert found == pytest.approx(total / 3 * temperature**2, rel=1e-4)
    assert float(distillation(teacher, teacher, temperature)) == pytest.approx(0, abs=1e-6)
