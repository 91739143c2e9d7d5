"""What an exported detector gives is what `postprocess` gives, by other operators."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from backbones.errors import UserError
from backbones.mobilenet_v1 import MobileNetV1, fold_norms
from tasks.detection.detector import Detections, Detector
from tasks.detection.faster_rcnn import FasterRCNN
from tasks.detection.pan import PAN
from tasks.detection.ssd import SSD, SSDFPN
from tasks.exporting import FORMATS
from tasks.exporting.graph import Graph, Job

SIDE, CLASSES = 128, 5


def detector(kind: type[Detector]) -> Detector:
    """One whose untrained outputs are spread: of many scores, and boxes that overlap."""
    torch.manual_seed(0)
    settings = {"proposals": 40} if kind is FasterRCNN else {}
    model = fold_norms(kind(MobileNetV1(0.25, strides=kind.strides), CLASSES, SIDE, alpha=0.25, **settings))
    for name, parameter in model.named_parameters():
        if "head" in name or "predictor" in name:
            parameter.data += 0.02 * torch.randn_like(parameter)
    return model


def images(batch: int) -> Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 256, (batch, 3, SIDE, SIDE), dtype=torch.uint8)


@torch.inference_mode()
def expected(model: Detector, pictures: Tensor) -> Detections:
    return model.postprocess(model(model.preprocess(pictures)), model.score_threshold)


def same(got: Detections, wanted: Detections) -> None:
    """In nearly all rows: some scores and overlaps of an untrained network are all but tied."""
    rows = zip(*got, *wanted, strict=True)
    for boxes, scores, labels, wanted_boxes, wanted_scores, wanted_labels in rows:
        there, some = wanted_scores > 0, scores > 0
        assert int(there.sum()) > 20
        near = (boxes[:, None] - wanted_boxes).abs().amax(dim=-1) < 0.02
        near &= ((scores[:, None] - wanted_scores).abs() < 1e-4) & (labels[:, None] == wanted_labels)
        assert float(near[some].any(dim=1).float().mean()) > 0.9
        assert float(near[:, there].any(dim=0).float().mean()) > 0.9


@pytest.mark.parametrize("kind", [SSD, SSDFPN, PAN, FasterRCNN])
def test_suppression_inside_equals_postprocess(kind: type[Detector]) -> None:
    model, pictures = detector(kind), images(2)
    with torch.inference_mode():
        found = model.found(model.deployed(model.preprocess(pictures), whole=True))
    same(found, expected(model, pictures))


@pytest.mark.parametrize("kind", [SSD, PAN])
def test_suppression_in_numpy_equals_postprocess(kind: type[Detector]) -> None:
    model, pictures = detector(kind), images(2)
    with torch.inference_mode():
        outputs = model.deployed(model.preprocess(pictures), whole=False)
        same(model.found(outputs), expected(model, pictures))
    assert outputs["scores"].shape[2] == CLASSES


def test_two_stages_in_onnx_runtime(tmp_path: Path) -> None:
    """Both uses of suppression, and crops, for a batch of another size than was exported."""
    form, model, pictures = FORMATS["onnx"], detector(FasterRCNN), images(3)
    graph = Graph(model, "uint8_nhwc", form.whole)
    names = ["boxes", "scores", "labels"]
    form.module().write(Job(graph, graph.example(1, SIDE), names, tmp_path / "m.onnx", np.empty(0), {}))
    answers = form.module().Runner(tmp_path / "m.onnx", 1)(graph.pixels(pictures).numpy())
    outputs = dict(zip(names, map(torch.from_numpy, answers), strict=True))
    same(model.found(outputs), expected(model, pictures))


def test_two_stages_need_suppression_inside() -> None:
    model = detector(FasterRCNN)
    with pytest.raises(UserError, match="which format=onnx alone has"):
        model.deployed(model.preprocess(images(1)), whole=False)
