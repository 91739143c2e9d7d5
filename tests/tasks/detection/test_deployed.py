"""What an exported detector gives is what `postprocess` gives, by other operators."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from backbones.base import Backbone, Normalization
from backbones.errors import UserError
from backbones.mobilenet_v1 import MobileNetV1, fold_norms
from tasks.detection.detector import Detections, Detector
from tasks.detection.faster_rcnn import FasterRCNN
from tasks.detection.pan import PAN
from tasks.detection.ssd import SSD, SSDFPN
from tasks.export.formats import FORMATS, installed
from tasks.export.graph import Graph, Job

SIDE, CLASSES = 128, 5


class Pooled(Backbone):
    """Mean colours at each stride instead of a real backbone: export time grows with the number of layers."""

    def __init__(self, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.strides, self.channels, self.normalization = strides, (3,) * len(strides), Normalization()

    def forward(self, images: Tensor) -> list[Tensor]:
        return [torch.nn.functional.avg_pool2d(images, stride) for stride in self.strides]


def detector(kind: type[Detector], backbone: Backbone | None = None, **settings: int) -> Detector:
    """An untrained detector with varied outputs: many different scores, and boxes that overlap."""
    torch.manual_seed(0)
    settings |= {"proposals": 40} if kind is FasterRCNN else {}
    model: Detector = kind(backbone or MobileNetV1(0.25, strides=kind.strides), CLASSES, SIDE, **settings)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.8, 1.2)
            module.bias.data.uniform_(-0.1, 0.1)
    fold_norms(model).to(memory_format=torch.channels_last)
    for name, parameter in model.named_parameters():
        if "head" in name or "predictor" in name:
            parameter.data += 0.02 * torch.randn_like(parameter)
    return model


def images(batch: int) -> Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 256, (batch, 3, SIDE, SIDE), dtype=torch.uint8)


@torch.inference_mode()
def expected(model: Detector, batch: Tensor) -> Detections:
    return model.postprocess(model(model.preprocess(batch)))


def same(got: Detections, wanted: Detections) -> None:
    """In nearly all rows: some scores and overlaps of an untrained network are nearly tied."""
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
    model, batch = detector(kind), images(2)
    with torch.inference_mode():
        found = model.from_export(model.export_forward(model.preprocess(batch), with_nms=True))
    same(found, expected(model, batch))


@pytest.mark.parametrize("kind", [SSD, PAN])
def test_suppression_in_numpy_equals_postprocess(kind: type[Detector]) -> None:
    model, batch = detector(kind), images(2)
    with torch.inference_mode():
        outputs = model.export_forward(model.preprocess(batch), with_nms=False)
        same(model.from_export(outputs), expected(model, batch))
    assert outputs["scores"].shape[2] == CLASSES


def test_two_stages_in_onnx_runtime(tmp_path: Path) -> None:
    """Both uses of suppression, and crops, for another batch size than the exported one."""
    form, model, batch = FORMATS["onnx"], detector(FasterRCNN), images(3)
    graph = Graph(model, "uint8_nhwc", form.with_nms)
    names = ["boxes", "scores", "labels"]
    form.module().write(Job(graph, graph.example(1, SIDE), names, tmp_path / "m.onnx", np.empty(0), {}))
    answers = form.module().Runner(tmp_path / "m.onnx", 1)(graph.pixels(batch).numpy())
    outputs = dict(zip(names, map(torch.from_numpy, answers), strict=True))
    same(model.from_export(outputs), expected(model, batch))


@pytest.mark.parametrize("form", ["litert", "executorch"])
@pytest.mark.parametrize("quantize", [False, True])
def test_shared_towers_on_phones(form: str, quantize: bool, tmp_path: Path) -> None:
    """Convolutions that all maps share, each with normalization of its own, and layers of equal shapes."""
    if missing := [name for name in FORMATS[form].packages if not installed(name)]:
        pytest.skip(f"needs {missing[0]}, of the extra {form}")
    model = detector(SSDFPN, Pooled((16, 32)), channels=32, head_layers=1)
    form_, batch = FORMATS[form], images(4)
    graph = Graph(model, "uint8_nhwc", form_.with_nms)
    pixels = graph.pixels(batch)
    ranges = pixels.numpy() if quantize else np.empty(0)
    path = tmp_path / f"m{form_.suffix}"
    form_.module().write(Job(graph, graph.example(1, SIDE), ["boxes", "scores"], path, ranges, {}))
    boxes, scores = form_.module().Runner(path, 1)(pixels.numpy())
    with torch.inference_mode():
        wanted_boxes, wanted_scores = (t.numpy() for t in graph(pixels))
    if quantize:
        assert np.corrcoef(scores.ravel(), wanted_scores.ravel())[0, 1] > 0.95
        np.testing.assert_allclose(boxes, wanted_boxes, atol=0.3)  # pixels; they differ by 0.04
        return
    np.testing.assert_allclose(scores, wanted_scores, atol=1e-4)
    np.testing.assert_allclose(boxes, wanted_boxes, atol=0.02)


def test_two_stages_need_suppression_inside() -> None:
    model = detector(FasterRCNN)
    with pytest.raises(UserError, match="which only format=onnx supports"):
        model.export_forward(model.preprocess(images(1)), with_nms=False)
