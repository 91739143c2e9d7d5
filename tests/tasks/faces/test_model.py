"""The attributes' network, loss and metrics against plain loops and the published costs."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from backbones.cost import measure_cost
from backbones.errors import UserError
from backbones.mobilenet_v1 import MobileNetV1
from data.classification import ClassificationBatch
from tasks.distill.teacher import TableTeacher
from tasks.engine.config import load_config
from tasks.engine.metrics import first_per_image
from tasks.faces.model import AttributeNet
from tasks.faces.task import FacesTask


def test_the_loss_is_the_cross_entropy_averaged_over_known_attributes() -> None:
    torch.manual_seed(0)
    net = AttributeNet(MobileNetV1(0.25), 4)
    logits, targets = torch.randn(3, 4), torch.tensor([[1, 0, -1, 1], [-1, -1, -1, -1], [0, 0, 1, -1]])
    terms = []
    for row, wanted in zip(logits.tolist(), targets.tolist(), strict=True):
        for x, y in zip(row, wanted, strict=True):
            p = 1 / (1 + math.exp(-x))
            terms += [-math.log(p if y else 1 - p)] if y >= 0 else []
    assert float(net.loss(logits, targets)) == pytest.approx(np.mean(terms), rel=1e-5)
    assert float(net.loss(logits, torch.full((3, 4), -1))) == 0


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distillation_is_the_cross_entropy_with_soft_outputs(temperature: float) -> None:
    torch.manual_seed(0)
    net, student, teacher = AttributeNet(MobileNetV1(0.25), 4), torch.randn(3, 4), torch.randn(3, 4)
    p, q = ((x / temperature).sigmoid() for x in (teacher, student))
    expected = -(p * q.log() + (1 - p) * (1 - q).log()).mean() * temperature**2
    assert float(net.distillation(student, teacher, temperature)) == pytest.approx(float(expected), rel=1e-5)
    student = teacher.clone().requires_grad_()  # the teacher itself is the optimum
    net.distillation(student, teacher, temperature).backward()
    torch.testing.assert_close(student.grad, torch.zeros(3, 4), rtol=0, atol=1e-6)


def test_average_precision_is_a_plain_loop_over_what_is_known() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.random((40, 3)).astype(np.float32), rng.integers(-1, 2, (40, 3))
    labels[:, 2] = 0
    expected = []
    for i in range(2):
        known = labels[:, i] >= 0
        ordered = labels[known, i][np.argsort(-scores[known, i])]
        hits = np.cumsum(ordered)
        expected.append(np.mean([hits[k] / (k + 1) for k in np.flatnonzero(ordered)]))
    found = FacesTask.precisions(torch.from_numpy(scores), torch.from_numpy(labels))
    assert found[:2].tolist() == pytest.approx(expected, rel=1e-5)
    assert bool(found[2].isnan())  # nobody has it


def test_where_some_labels_are_known_no_batch_asks_for_the_teacher() -> None:
    """Else the metrics would depend on how images come in batches."""
    settings = load_config(["task=faces", "data=demo_faces", "backbone.alpha=0.25", "teacher=absent.csv"])
    task = FacesTask(settings, ["a", "b"])
    task.asks_teacher = False
    for labels in (torch.tensor([[1, -1], [0, -1]]), torch.full((2, 2), -1)):
        batch = ClassificationBatch(torch.zeros(2, 3, 32, 32), torch.zeros(2, 2), [], labels, [])
        assert torch.equal(task.truth(batch), labels)


def test_a_table_with_one_row_for_two_images() -> None:
    table = TableTeacher(Path("t.csv"), ["x.jpg"], torch.zeros(1, 2))
    table.check([Path("a/x.jpg"), Path("a/x.jpg")])
    with pytest.raises(UserError, match=r"t\.csv has one row for b/x\.jpg and a/x\.jpg: name images by their folders"):
        table.check([Path("a/x.jpg"), Path("b/x.jpg")])


def test_an_image_that_two_processes_measured_counts_once() -> None:
    """Images of a stream, of index -1, all count."""
    index = torch.tensor([4, 1, 4, -1, 0, 1, -1])
    found = first_per_image(torch.stack([index, torch.arange(7)], dim=1).float())
    assert sorted(found.tolist()) == [[-1, 3], [-1, 6], [0, 4], [1, 1], [4, 0]]


@pytest.mark.parametrize(
    ("alpha", "resolution", "whole", "printed"),
    [
        (1.0, 224, 568.740, (568, 3.2)),
        (0.5, 224, 149.497, (149, 0.8)),
        (0.25, 224, 41.030, (41, 0.2)),
        (1.0, 128, 186.401, (185, 3.2)),
        (0.5, 128, 49.160, (48, 0.8)),
        (0.25, 128, 13.570, (14, 0.2)),
    ],
)
def test_costs_of_table_12(alpha: float, resolution: int, whole: float, printed: tuple[int, float]) -> None:
    """`whole` is the recounted cost with 1000 classes instead of 40 attributes; the table prints (M, M)."""
    cost = measure_cost(AttributeNet(MobileNetV1(alpha), 40), resolution)
    features = int(1024 * alpha)
    assert round((cost.madds + 960 * features) / 1e6, 3) == whole
    assert cost.params == {1.0: 4_231_976, 0.5: 1_331_592, 0.25: 470_072}[alpha] - 960 * (features + 1)
    assert cost.madds / 1e6 == pytest.approx(printed[0], abs=1)
    assert cost.params / 1e6 == pytest.approx(printed[1], abs=0.05)
