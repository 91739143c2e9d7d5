"""Detectors that start from other weights: of another number of classes, and of TensorFlow's detection zoo."""

import http.server
import io
import itertools
import logging
import os
import tarfile
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.compat.proto import tensor_pb2
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.util.tensor_util import make_tensor_proto
from torchvision.models.detection import SSD300_VGG16_Weights

from backbones.errors import UserError
from backbones.mobilenet_v1 import MobileNetV1
from tasks.detection import tf_zoo
from tasks.detection.heads import PRIOR
from tasks.detection.pan import PAN
from tasks.detection.ssd import SSD
from tasks.detection.tf_zoo import read_tf_zoo
from tasks.engine.checkpoint import load_matching_weights
from tests.backbones.test_keras_reference import patches

CATEGORIES = SSD300_VGG16_Weights.COCO_V1.meta["categories"]
DEPTHS = (32, 64, 128, 128, 256, 256, *(512,) * 6, 1024, 1024)
EXTRAS = ((1024, 256, 512), (512, 128, 256), (256, 128, 256), (256, 64, 128))
MAPS = (512, 1024, 512, 256, 256, 128)


@pytest.fixture(scope="module")
def variables() -> dict[str, np.ndarray]:
    """Random variables as ssd_mobilenet_v1_coco has them, and an optimizer's, which must be ignored."""
    rng = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {"global_step": np.array(7)}

    def layer(name: str, kernel: str, *shape: int) -> None:
        outputs = shape[2] if kernel == "depthwise_weights" else shape[3]
        spread = (shape[0] * shape[1] * (1 if kernel == "depthwise_weights" else shape[2])) ** -0.5
        prefix = f"FeatureExtractor/MobilenetV1/{name}"
        found[f"{prefix}/{kernel}"] = rng.normal(0, spread, shape)
        for key in ("gamma", "moving_variance"):
            found[f"{prefix}/BatchNorm/{key}"] = rng.uniform(0.5, 1.5, outputs)
        for key in ("beta", "moving_mean"):
            found[f"{prefix}/BatchNorm/{key}"] = rng.normal(0, 0.3, outputs)
        found[f"{prefix}/{kernel}/RMSProp"] = np.zeros(shape)

    layer("Conv2d_0", "weights", 3, 3, 3, 32)
    for i, (before, after) in enumerate(itertools.pairwise(DEPTHS), start=1):
        layer(f"Conv2d_{i}_depthwise", "depthwise_weights", 3, 3, before, 1)
        layer(f"Conv2d_{i}_pointwise", "weights", 1, 1, before, after)
    for i, (inputs, half, depth) in enumerate(EXTRAS, start=2):
        layer(f"Conv2d_13_pointwise_1_Conv2d_{i}_1x1_{half}", "weights", 1, 1, inputs, half)
        layer(f"Conv2d_13_pointwise_2_Conv2d_{i}_3x3_s2_{depth}", "weights", 3, 3, half, depth)
    for i, depth in enumerate(MAPS):
        anchors = 3 if i == 0 else 6
        for name, columns in (("BoxEncodingPredictor", 4), ("ClassPredictor", 91)):
            found[f"BoxPredictor_{i}/{name}/weights"] = rng.normal(0, 0.05, (1, 1, depth, anchors * columns))
            found[f"BoxPredictor_{i}/{name}/biases"] = rng.normal(0, 0.1, anchors * columns)
    return {name: array.astype(np.float32) for name, array in found.items()}


@pytest.fixture(scope="module")
def zoo(variables: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of the variables."""
    path = tmp_path_factory.mktemp("zoo") / "ssd.tar.gz"
    write_graph(path, variables)
    return path


def write_graph(path: Path, variables: dict[str, np.ndarray]) -> None:
    """An archive like the zoo's, with a frozen graph of the variables as constants and one operation."""
    graph = GraphDef()
    graph.node.add(name="Preprocessor/mul", op="Mul")
    for name, array in variables.items():
        graph.node.add(name=name, op="Const").attr["value"].tensor.CopyFrom(make_tensor_proto(array))
    content = graph.SerializeToString()
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name in ("model/checkpoint", "model/frozen_inference_graph.pb"):
            member = tarfile.TarInfo(name)
            member.size = len(content) if name.endswith(".pb") else 0
            archive.addfile(member, io.BytesIO(content) if member.size else None)


def starting(path: Path, labels: list[str], resolution: int = 160) -> Any:
    """A module with an SSD for the labels that starts from a file in the zoo's format."""
    torch.manual_seed(0)
    module: Any = torch.nn.Module()
    module.model = SSD(MobileNetV1(strides=SSD.strides), len(labels), resolution).eval()
    load_matching_weights(module, read_tf_zoo(path, labels, module.state_dict()), path.name)
    return module


COCO = [name for name in CATEGORIES[1:] if name != "N/A"]


def test_the_zoos_ssd_computes_the_same(zoo: Path, variables: dict[str, np.ndarray]) -> None:
    """The last extra map and the first and last predictors, against TensorFlow's arithmetic written out in numpy."""
    model = starting(zoo, COCO)
    maps: list[torch.Tensor] = []
    model.model.neck.register_forward_hook(lambda _module, _inputs, outputs: maps.extend(outputs))
    with torch.no_grad():
        deltas, logits = model.model(torch.randn(1, 3, 160, 160))

    def norm(x: np.ndarray, layer: str) -> np.ndarray:
        gamma, beta, mean, variance = (
            variables[f"{layer}/BatchNorm/{key}"] for key in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return np.clip((x - mean) / np.sqrt(variance + 1e-3) * gamma + beta, 0, 6)

    prefix = "FeatureExtractor/MobilenetV1/Conv2d_13_pointwise"
    x = maps[1][0].permute(1, 2, 0).numpy()  # 5 x 5
    for i, (_, half, depth) in enumerate(EXTRAS, start=2):
        layer = f"{prefix}_1_Conv2d_{i}_1x1_{half}"
        x = norm(x @ variables[f"{layer}/weights"][0, 0], layer)
        layer = f"{prefix}_2_Conv2d_{i}_3x3_s2_{depth}"
        x = norm(np.einsum("hwcij,ijco->hwo", patches(x, 2), variables[f"{layer}/weights"]), layer)
        np.testing.assert_allclose(maps[i][0].permute(1, 2, 0).numpy(), x, atol=1e-3)
    first = maps[0][0].permute(1, 2, 0).numpy()
    for row, (i, source) in {0: (0, first), -1: (5, x)}.items():
        boxes, classes = (
            source @ variables[f"BoxPredictor_{i}/{name}/weights"][0, 0] + variables[f"BoxPredictor_{i}/{name}/biases"]
            for name in ("BoxEncodingPredictor", "ClassPredictor")
        )
        y, x_, height, width = boxes.reshape(-1, 4)[row]
        np.testing.assert_allclose(deltas[0, row].numpy(), [x_, y, width, height], atol=1e-3)
        ids = [0, *(i for i, name in enumerate(CATEGORIES) if i and name != "N/A")]
        np.testing.assert_allclose(logits[0, row].numpy(), classes.reshape(-1, 91)[row, ids], atol=1e-3)


def test_the_zoos_boxes_and_scores(zoo: Path) -> None:
    """Anchors, box coding and detection scores, against TensorFlow's formulas written out in numpy."""
    model = starting(zoo, COCO).model
    with torch.no_grad():
        outputs = model(torch.randn(1, 3, 160, 160))
    deltas, logits = (output[0].double().numpy() for output in outputs)
    scales = [*np.linspace(0.2, 0.95, 6), 1.0]
    anchors = []
    for i, side in enumerate((10, 5, 3, 2, 1, 1)):
        shapes = [(scales[i], r) for r in (1, 2, 0.5, 3, 1 / 3)] + [((scales[i] * scales[i + 1]) ** 0.5, 1)]
        shapes = [(0.1, 1), (scales[0], 2), (scales[0], 0.5)] if i == 0 else shapes
        for y, x in itertools.product((np.arange(side) + 0.5) / side, (np.arange(side) + 0.5) / side):
            anchors += [(x, y, scale * ratio**0.5, scale / ratio**0.5) for scale, ratio in shapes]
    x, y, width, height = np.array(anchors).T
    centre = deltas[:, 0] / 10 * width + x, deltas[:, 1] / 10 * height + y
    half = np.exp(deltas[:, 2] / 5) * width / 2, np.exp(deltas[:, 3] / 5) * height / 2
    wanted = np.stack([centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1]], axis=1)
    wanted = (wanted * 160).clip(0, 160)
    model.score_threshold = 0.3
    found = model.postprocess(outputs)
    scores = 1 / (1 + np.exp(-logits[:, 1:]))
    best = int(scores.max(axis=1).argmax())  # nothing suppresses the highest score
    np.testing.assert_allclose(found.boxes[0, 0].numpy(), wanted[best], atol=0.01)
    assert found.scores[0, 0].item() == pytest.approx(scores.max(), abs=1e-5)
    assert found.labels[0, 0].item() == scores[best].argmax()


def test_classes_are_kept_by_name(
    zoo: Path, variables: dict[str, np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        module = starting(zoo, ["raccoon", "Traffic_light", "person"])
    assert "2 of 3 classes are COCO's (Traffic_light, person); the others keep their initial values" in caplog.text
    bias = module.model.class_head.predictors[0].bias.detach().numpy().reshape(3, 4)
    theirs = variables["BoxPredictor_0/ClassPredictor/biases"].reshape(3, 91)
    np.testing.assert_array_equal(bias[:, [0, 2, 3]], theirs[:, [0, 10, 1]])
    assert np.allclose(bias[:, 1], PRIOR)


def test_the_zoos_file_comes_from_its_server(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ssd_mobilenet_v1_coco_2018_01_28.tar.gz").symlink_to(zoo)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr(tf_zoo, "ZOO", f"http://127.0.0.1:{running.server_port}")
        path = tf_zoo.fetch_coco(1.0)
        running.shutdown()
    assert path == tf_zoo.fetch_coco(1.0)  # from the cache: the server is shut down
    assert len(read_tf_zoo(path, ["person"], {})) > 150
    with pytest.raises(UserError, match=r"the zoo has backbone.alpha \[0.75, 1.0\], not 0.5"):
        tf_zoo.fetch_coco(0.5)


def test_files_that_are_none_of_the_zoos(zoo: Path, tmp_path: Path) -> None:
    write_graph(tmp_path / "other.tar.gz", {"x": np.zeros(3, np.float32)})
    (tmp_path / "torn.tar.gz").write_bytes(zoo.read_bytes()[:1000])
    (tmp_path / "noise.pb").write_bytes(b"\xff" * 100)
    for name in ("pipe.pb", "pipe.tar.gz"):
        os.mkfifo(tmp_path / name)
    with tarfile.open(tmp_path / "empty.tar.gz", "w:gz"):
        pass
    with tarfile.open(tmp_path / "header.tar.gz", "w:gz") as archive:  # with a header that tarfile would read whole
        member = tarfile.TarInfo("x")
        member.type, member.size = tarfile.GNUTYPE_LONGNAME, 2 << 20
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    with tarfile.open(tmp_path / "large.tar.gz", "w:gz", compresslevel=1) as archive:
        member = tarfile.TarInfo("x")
        member.size = tf_zoo.MAX_BYTES + 1
        archive.fileobj.write(member.tobuf())  # without its content
    reasons = {
        "header.tar.gz": "a header of 2097152 bytes",
        "large.tar.gz": "contains more than an ssd_mobilenet_v1",
        "other.tar.gz": "no variables of an ssd_mobilenet_v1",
        "torn.tar.gz": "cannot be read",
        "noise.pb": "cannot be read",
        "empty.tar.gz": "has no frozen_inference_graph.pb",
        "absent.pb": "cannot be read: .*No such file",
        "pipe.pb": "cannot be read: .*not a regular file",
        "pipe.tar.gz": "cannot be read: .*not a regular file",
    }
    for name, words in reasons.items():
        with pytest.raises(UserError, match=words):
            read_tf_zoo(tmp_path / name, ["person"], {})


def test_another_number_of_classes_keeps_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    old, new = (SSD(MobileNetV1(0.25, strides=SSD.strides), n, 160) for n in (3, 5))
    with caplog.at_level(logging.WARNING):
        load_matching_weights(new, old.state_dict(), "old")
    fresh = {name for name, tensor in new.state_dict().items() if not torch.equal(tensor, old.state_dict()[name])}
    assert fresh == {f"class_head.predictors.{i}.{kind}" for i in range(6) for kind in ("weight", "bias")}
    assert all(name in caplog.text for name in fresh)


def shape(*sides: int) -> TensorShapeProto:
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=side) for side in sides])


KERNEL, CONV = "FeatureExtractor/MobilenetV1/Conv2d_0/weights", "backbone.blocks.0.conv.weight"
HUGE = tensor_pb2.TensorProto(dtype=1, float_val=[0], tensor_shape=shape(1 << 20, 1 << 10, 3, 3))
CLASSES, BOXES = (f"BoxPredictor_0/{name}Predictor/biases" for name in ("Class", "BoxEncoding"))
ODD = {  # a constant's name and content, and our name
    "a scalar": (KERNEL, make_tensor_proto(np.float32(1)), CONV),
    "two dimensions": (KERNEL, make_tensor_proto(np.zeros((3, 3), np.float32)), CONV),
    "text": (KERNEL, make_tensor_proto("x"), CONV),
    "terabytes": (KERNEL, HUGE, CONV),
    "other anchors": (CLASSES, make_tensor_proto(np.zeros(90, np.float32)), "class_head.predictors.0.bias"),
    "no boxes": (BOXES, make_tensor_proto(np.zeros(10, np.float32)), "box_head.predictors.0.bias"),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_constant_is_left_out(kind: str, variables: dict[str, np.ndarray], tmp_path: Path) -> None:
    """What fits is used, without a traceback, and without memory for a huge shape declared in a few bytes."""
    name, tensor, ours = ODD[kind]
    graph = GraphDef()
    for other, array in variables.items():
        value = tensor if other == name else make_tensor_proto(array)
        graph.node.add(name=other, op="Const").attr["value"].tensor.CopyFrom(value)
    (tmp_path / "odd.pb").write_bytes(graph.SerializeToString())
    found = starting(tmp_path / "odd.pb", ["person"]).model.state_dict()
    torch.manual_seed(0)
    initial = SSD(MobileNetV1(strides=SSD.strides), 1, 160).state_dict()
    kept = [key for key, value in found.items() if torch.equal(value, initial[key]) and "num_batches" not in key]
    assert kept == [ours]


def test_many_constants_of_one_value_fill_no_memory(tmp_path: Path) -> None:
    """TensorFlow's compact form: a graph of a megabyte declares forty gigabytes."""
    graph = GraphDef()
    for i in range(1000):
        value = tensor_pb2.TensorProto(dtype=1, float_val=[0], tensor_shape=shape(1000, 10_000, 1, 1))
        graph.node.add(name=f"FeatureExtractor/{i}/weights", op="Const").attr["value"].tensor.CopyFrom(value)
    (tmp_path / "bomb.pb").write_bytes(graph.SerializeToString())
    with pytest.raises(UserError, match="has more weights than an ssd_mobilenet_v1"):
        read_tf_zoo(tmp_path / "bomb.pb", ["person"], {})


def field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message: a message, text or bytes."""
    size = b""
    left = len(content)
    while left > 127:
        size, left = size + bytes([128 | left & 127]), left >> 7
    return bytes([number << 3 | 2]) + size + bytes([left]) + content


def constant(tensor: bytes) -> bytes:
    """A graph of one constant."""
    attribute = field(5, field(1, b"value") + field(2, field(8, tensor)))
    return field(1, field(1, KERNEL.encode()) + field(2, b"Const") + attribute)


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (b"\x0a\x00" * 50_000, "a message has more than 20000 fields"),  # nodes
        (field(1, b"\x1a\x00" * 50_000), "a message has more than 20000 fields"),  # a node's inputs
        (constant(field(2, b"\x12\x00" * 10_000)), "no variables of an ssd_mobilenet_v1"),  # a shape's sides
        (constant(field(8, b"\x0a\x00" * 10_000)), "no variables of an ssd_mobilenet_v1"),  # texts
        (constant(b"\x0b"), "there is no field of type 3"),
        (constant(b"\x22\x05ab"), "it is damaged"),
    ],
)
def test_empty_messages_fill_no_memory(
    graph: bytes, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In protobuf's hands, each takes a hundred bytes of memory for two of the file."""
    monkeypatch.setattr(GraphDef, "FromString", None)
    monkeypatch.setattr(tensor_pb2.TensorProto, "FromString", None)
    (tmp_path / "bomb.pb").write_bytes(graph)
    with pytest.raises(UserError, match=words):
        read_tf_zoo(tmp_path / "bomb.pb", ["person"], {})


def test_another_detector_takes_the_backbone_alone(zoo: Path, caplog: pytest.LogCaptureFixture) -> None:
    fresh = {
        f"model.{name}": tensor for name, tensor in PAN(MobileNetV1(strides=PAN.strides), 2, 64).state_dict().items()
    }
    read_tf_zoo(zoo, ["person", "dog"], fresh)
    assert "only its backbone is used; detector=ssd uses its heads too" in caplog.text
    assert "classes are COCO's" not in caplog.text
