"""Reads the ssd_mobilenet_v1 models of the TensorFlow detection zoo, trained on COCO, from its own files."""

import itertools
import logging
import math
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection import SSD300_VGG16_Weights

from backbones.download import cache_folder, download
from backbones.errors import UserError
from backbones.files import check_regular
from backbones.mobilenet_v1 import BLOCKS
from data.tar import ShortHeaders

BACKBONE = "FeatureExtractor/MobilenetV1/"
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
ZOO = "https://download.tensorflow.org/models/object_detection"
PUBLISHED = {
    1.0: "ssd_mobilenet_v1_coco_2018_01_28.tar.gz",
    0.75: "ssd_mobilenet_v1_0.75_depth_300x300_coco14_sync_2018_07_03.tar.gz",
}
GRAPH = "frozen_inference_graph.pb"
MAX_BYTES, MAX_GRAPH = 300_000_000, 100_000_000  # of an archive up to its graph, and of the graph
MOST_FIELDS = 20_000  # of a message, such as nodes of the graph
MOST_VALUES, MOST_OF_ALL = 10_000_000, 50_000_000  # values of a tensor, and of all tensors
FLOAT = 1  # TensorFlow's DT_FLOAT
VARIABLE = re.compile(r"FeatureExtractor/|BoxPredictor_\d/")
COLUMNS = 91  # COCO's category ids, which leave some out, and 0 for background
PREDICTORS = {
    (theirs, kind): (ours, "weight" if kind == "weights" else "bias")
    for theirs, ours in (("BoxEncodingPredictor", "box_head"), ("ClassPredictor", "class_head"))
    for kind in ("weights", "biases")
}
XYWH = (1, 0, 3, 2)  # TF's box code is (y, x, height, width)

log = logging.getLogger(__name__)


def layers() -> Iterator[tuple[str, str]]:
    """(pattern of TF's layer, our layer) of every convolution with normalization."""
    yield "Conv2d_0", "backbone.blocks.0"
    last = len(BLOCKS)
    for i in range(1, last + 1):
        yield f"Conv2d_{i}_depthwise", f"backbone.blocks.{i}.0"
        yield f"Conv2d_{i}_pointwise", f"backbone.blocks.{i}.1"
    for i in range(4):  # the names end in the layer's depth
        yield rf"Conv2d_{last}_pointwise_1_Conv2d_{i + 2}_1x1_\d+", f"neck.blocks.{i}.0"
        yield rf"Conv2d_{last}_pointwise_2_Conv2d_{i + 2}_3x3_s2_\d+", f"neck.blocks.{i}.1"


def published(alpha: float) -> str:
    """The file name of the zoo's SSD for a width.

    Raises:
        UserError: the zoo has none.
    """
    if alpha not in PUBLISHED:
        raise UserError(f"ckpt=coco: the zoo has backbone.alpha {sorted(PUBLISHED)}, not {alpha}")
    return PUBLISHED[alpha]


def fetch_coco(alpha: float) -> Path:
    """The zoo's archive for a width, downloaded once into the cache. Raises UserError if it cannot be."""
    name = published(alpha)
    path = cache_folder() / name
    if not path.exists():
        download(f"{ZOO}/{name}", path, max_bytes=MAX_BYTES)
    return path


def read_graph(path: Path) -> dict[str, np.ndarray]:
    """The weights in a frozen graph, by name, from a .pb file or from the one in the zoo's archive.

    Raises:
        UserError: it cannot be read, or is too large.
    """
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.util.tensor_util import make_ndarray

    try:
        found = {name: TensorProto.FromString(content) for name, content in _constants(_graph_bytes(path))}
        tensors = {name: tensor for name, tensor in found.items() if _plausible(name, tensor)}
        if sum(map(_values, tensors.values())) > MOST_OF_ALL:
            raise UserError(f"ckpt={path} has more weights than an ssd_mobilenet_v1")
        return {name: make_ndarray(tensor) for name, tensor in tensors.items()}
    except (OSError, tarfile.TarError, EOFError, zlib.error, DecodeError, ValueError, TypeError) as error:
        raise UserError(f"ckpt={path} cannot be read: {error}") from error


def _constants(graph: bytes) -> Iterator[tuple[str, bytes]]:
    """The names and TensorProto messages of the variables in a GraphDef. It is not parsed as a whole: protobuf takes
    fifty times the memory of a message of empty messages. Constants with other content than float32 has are left out.
    """
    for number, node in _fields(memoryview(graph)):
        if number != 1:  # node
            continue
        fields = list(_fields(node))
        own = {number: bytes(content) for number, content in fields if number in (1, 2)}  # name and op
        name = own.get(1, b"").decode()
        if own.get(2) != b"Const" or not VARIABLE.match(name):
            continue
        attributes = [dict(_fields(content)) for number, content in fields if number == 5]  # attr: keys and values
        for value in (entry[2] for entry in attributes if entry.get(1) == b"value" and 2 in entry):
            tensor = dict(_fields(value)).get(8, memoryview(b""))  # tensor
            parts = [*_fields(tensor)]  # tensor_shape, tensor_content and float_val
            if all(number in (4, 5) or (number == 2 and len(content) < 1000) for number, content in parts):
                yield name, bytes(tensor)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The fields of a protobuf message that are messages, texts or bytes: number and content.

    Raises:
        ValueError: it is damaged or has more than MOST_FIELDS fields.
    """
    at = 0
    for _ in range(MOST_FIELDS):
        if at >= len(message):
            break
        key, at = _varint(message, at)
        kind = key & 7
        if kind not in (0, 1, 2, 5):
            raise ValueError(f"there is no field of type {kind}")
        size = {1: 8, 5: 4}.get(kind, 0)
        if kind in (0, 2):
            value, at = _varint(message, at)
            size = value if kind == 2 else 0
        if kind == 2:
            yield key >> 3, message[at : at + size]
        at += size
    if at != len(message):
        raise ValueError(f"it is damaged, or a message has more than {MOST_FIELDS} fields")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number that starts at a byte of a message, and where it ends."""
    value = 0
    for shift, byte in enumerate(message[at : at + 10]):
        value |= (byte & 127) << (7 * shift)
        if byte < 128:
            return value, at + shift + 1
    raise ValueError("it is damaged")


def _plausible(name: str, tensor: Any) -> bool:
    """Whether a constant can be a weight: float32, with as many dimensions as its name implies, and not too large; a
    few bytes can declare a shape of terabytes.
    """
    sides = [dim.size for dim in tensor.tensor_shape.dim]
    wanted = 4 if name.endswith("weights") else 1
    return tensor.dtype == FLOAT and len(sides) == wanted and min(sides) > 0 and _values(tensor) <= MOST_VALUES


def _values(tensor: Any) -> int:
    """The number of values in a constant's declared shape; the file may store one value for all."""
    return math.prod(dim.size for dim in tensor.tensor_shape.dim)


def _graph_bytes(path: Path) -> bytes:
    graph = path.suffix == ".pb"
    check_regular(path, MAX_GRAPH if graph else MAX_BYTES)
    if graph:
        return path.read_bytes()
    total = 0
    with tarfile.open(path, "r|gz", tarinfo=ShortHeaders) as archive:  # as a stream: nothing is unpacked
        for member in archive:
            total += member.size  # what comes before the graph is decompressed too
            found = member.isfile() and member.name.endswith(GRAPH)
            if total > MAX_BYTES or (found and member.size > MAX_GRAPH):
                raise UserError(f"ckpt={path} contains more than an ssd_mobilenet_v1")
            if found:
                file = archive.extractfile(member)
                assert file is not None
                return file.read()
    raise UserError(f"ckpt={path} has no {GRAPH}")


def read_tf_zoo(path: Path, labels: Sequence[str], fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an ssd_mobilenet_v1 as the zoo publishes it (tar.gz or .pb), under the names of a task's state
    dict. Class predictors take COCO's rows for those `labels` that COCO has by the same name (a log line counts them);
    the others are from `fresh`, the state dict of the new model.

    Raises:
        UserError: it cannot be read, or holds no such variables.
    """
    variables = read_graph(path)
    state: dict[str, Tensor] = {}
    for pattern, ours in layers():
        match = re.compile(f"{BACKBONE}{pattern}/(.+)")
        for name, array in variables.items():
            if found := match.fullmatch(name):
                state |= _layer(ours, found[1], torch.from_numpy(array))
    if not state:
        raise UserError(f"ckpt={path} has no variables of an ssd_mobilenet_v1, such as {BACKBONE}Conv2d_0/weights")
    rows = class_rows(labels)
    for i, (theirs, kind) in itertools.product(range(6), PREDICTORS):
        variable = f"BoxPredictor_{i}/{theirs}/{kind}"
        if variable not in variables:
            continue
        tensor = torch.from_numpy(variables[variable])
        name = f"model.{PREDICTORS[theirs, kind][0]}.predictors.{i}.{PREDICTORS[theirs, kind][1]}"
        tensor = tensor.permute(3, 2, 0, 1) if kind == "weights" else tensor
        if theirs == "BoxEncodingPredictor" and len(tensor) % 4 == 0:
            tensor = tensor.unflatten(0, (-1, 4))[:, XYWH].flatten(0, 1)
        if theirs == "ClassPredictor" and name in fresh:
            own = fresh[name]
            if len(tensor) * (1 + len(labels)) != len(own) * COLUMNS or tensor.shape[1:] != own.shape[1:]:
                continue  # another network
            tensor = _chosen(tensor, rows, own)
        state[name] = tensor
    kept = [label for label, row in zip(labels, rows, strict=True) if row is not None]
    if any("class_head.predictors" in name for name in state.keys() & fresh.keys()):
        words = f"{len(kept)} of {len(labels)} classes are COCO's ({', '.join(kept[:10]) or 'none'})"
        log.info("ckpt=%s: %s; the others keep their initial values", path.name, words)
    else:
        log.warning("ckpt=%s: only its backbone is used; detector=ssd uses its heads too", path.name)
    return state


def class_rows(labels: Sequence[str]) -> list[int | None]:
    """COCO's category id of each label; None where it has no class of that name."""
    names = {name.lower(): i for i, name in enumerate(SSD300_VGG16_Weights.COCO_V1.meta["categories"]) if name != "N/A"}
    return [names.get(label.replace("_", " ").lower()) for label in labels]


def _chosen(theirs: Tensor, rows: Sequence[int | None], fresh: Tensor) -> Tensor:
    """A class predictor (anchors * (1 + labels), ...) from the zoo's (anchors * 91, ...): background and the classes
    that have a row; the others as in `fresh`.
    """
    anchors = len(theirs) // COLUMNS
    result = fresh.detach().clone().unflatten(0, (anchors, 1 + len(rows)))
    source = theirs.unflatten(0, (anchors, COLUMNS))
    for column, row in enumerate([0, *rows]):
        if row is not None:
            result[:, column] = source[:, row]
    return result.flatten(0, 1)


def _layer(ours: str, variable: str, tensor: Tensor) -> dict[str, Tensor]:
    """A convolution's kernel (HWIO; HWC1 where depthwise) or one of its normalization's vectors."""
    if variable == "depthwise_weights":
        return {f"model.{ours}.conv.weight": tensor.permute(2, 3, 0, 1)}
    if variable == "weights":
        return {f"model.{ours}.conv.weight": tensor.permute(3, 2, 0, 1)}
    key = NORM.get(variable.removeprefix("BatchNorm/"))
    return {f"model.{ours}.norm.{key}": tensor} if key else {}  # others are the optimizer's
