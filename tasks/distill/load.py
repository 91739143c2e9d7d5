"""Loads the teacher that a configuration names."""

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.base import IMAGENET, Normalization
from backbones.errors import UserError, first_line
from backbones.files import BAD_ARRAY, check_regular
from data.base import SuiteData
from data.classification import ImageSet
from data.identities import People
from tasks.distill.cache import Cached
from tasks.distill.teacher import Network, TableTeacher, Teacher
from tasks.engine.checkpoint import load_checkpoint
from tasks.engine.model import OutputKind, PooledNet
from tasks.engine.task import TaskModule, restore

NORMALIZATIONS = {
    "half": Normalization(),
    "imagenet": IMAGENET,
    "unit": Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "bytes": Normalization((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
}


def load_teacher(
    source: str, labels: Sequence[str], student: PooledNet, resolution: int, normalization: str | None = None
) -> Teacher:
    """A teacher for a student with these labels, in this order, at `resolution` pixels: an .onnx file, a .csv or .npz
    table of outputs, a checkpoint or run folder of ours, or a timm name (also local-dir:<folder>, hf-hub:<name>).

    `normalization` is what an .onnx file of float input expects: "student", or one of `NORMALIZATIONS`.

    Raises:
        UserError: it cannot be loaded, has other classes or sizes, or its normalization is unknown.
    """
    if source.endswith((".csv", ".npz")):
        teacher, count = _from_table(Path(source), labels, student.output_kind)
    else:
        if source.endswith(".onnx"):
            teacher = _from_onnx(Path(source), student, normalization)
        elif Path(source).exists() or source.endswith(".ckpt"):
            teacher = _from_checkpoint(source, labels, student.output_kind)
        else:
            teacher = _from_timm(source, student.output_kind)
        try:
            count = teacher(torch.zeros(1, 3, resolution, resolution)).shape[1]
        except Exception as error:  # onnxruntime's own exceptions share no other base
            raise UserError(f"teacher={source} does not accept {resolution} pixels: {first_line(error)}") from error
    if student.output_kind == "embedding" and count != student.outputs:
        raise UserError(
            f"teacher={source} has embeddings of size {count}, the student of size {student.outputs}; "
            f"set task.dim={count}"
        )
    if count != student.outputs:
        raise UserError(f"teacher={source} has {count} {student.output_kind}, the data has {student.outputs}")
    return teacher


def teacher_labels(source: str) -> list[str]:
    """The names of the outputs of a checkpoint or table.

    Raises:
        UserError: it has no names.
    """
    if source.endswith((".csv", ".npz")):
        return _read_table(Path(source))[1]
    if source.endswith(".onnx") or not Path(source).exists():
        raise UserError(f"teacher={source} does not name its outputs; set data.attributes=[names]")
    suite = load_checkpoint(source)["suite"]
    if "labels" not in suite:
        raise UserError(f"teacher={source} is a backbone without outputs; give a checkpoint of a task")
    return list(suite["labels"])


def _from_checkpoint(source: str, labels: Sequence[str], output_kind: OutputKind) -> Teacher:
    checkpoint = load_checkpoint(source)
    module = restore(checkpoint)
    network, side = module.model, module.resolution
    if not isinstance(network, PooledNet) or network.output_kind != output_kind:
        raise UserError(
            f"teacher={source} is of task={module.config['task']['name']}, whose outputs are not {output_kind}"
        )
    if output_kind == "attributes" and set(labels) <= set(module.labels):
        order = torch.tensor([module.labels.index(name) for name in labels])
        return Network(lambda x: network(network.preprocess(_resized(x, side)))[:, order], str(order), network)
    if output_kind != "embedding" and module.labels != list(labels):
        raise UserError(f"teacher={source} has the {output_kind} {module.labels}, the data has {list(labels)}")
    return Network(lambda x: network(network.preprocess(_resized(x, side))), str(side), network)


def _from_timm(name: str, output_kind: OutputKind) -> Teacher:
    import timm

    if not timm.is_model(name) and not name.startswith(("local-dir:", "hf-hub:")):
        raise UserError(f"teacher={name} is neither a file, a run folder nor a network that timm knows")
    try:
        network: Any = timm.create_model(name, pretrained=True)
        if output_kind == "embedding":
            network.reset_classifier(0)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"teacher={name}: its weights cannot be obtained: {first_line(error)}") from error
    settings = timm.data.resolve_model_data_config(network)
    side = settings["input_size"][-1]
    mean, std = (torch.tensor(settings[k]).view(3, 1, 1) * 255 for k in ("mean", "std"))

    def outputs(images: Tensor) -> Tensor:
        pixels = _resized(images, side)
        found = network((pixels - mean.to(pixels.device)) / std.to(pixels.device))
        return F.normalize(found.float(), dim=1) if output_kind == "embedding" else found

    return Network(outputs, f"{name} {settings}", network)


def _from_onnx(path: Path, student: PooledNet, normalization: str | None) -> Teacher:
    """A uint8 input takes the pixels as they are; for a float one the normalization must be given. Its first output
    holds logits or, if it is named as in an export of this suite, probabilities.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"teacher={path}: install onnxruntime to learn from an onnx file") from error
    if not path.is_file():
        raise UserError(f"teacher={path}: there is no such file")
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no other base
        raise UserError(f"teacher={path} cannot be read: {first_line(error)}") from error
    (slot, *others) = session.get_inputs()
    if others or len(slot.shape) != 4:
        raise UserError(f"teacher={path} should take one batch of images, not {[i.shape for i in (slot, *others)]}")
    channels_first, as_bytes = slot.shape[1] == 3, slot.type == "tensor(uint8)"
    side, fixed = slot.shape[2], slot.shape[0]
    if not as_bytes and normalization is None:
        raise UserError(
            f"teacher={path} takes numbers and does not say how images are normalized; set "
            f"distill.normalization to student, {', '.join(NORMALIZATIONS)}"
        )

    def outputs(images: Tensor) -> Tensor:
        pixels = _resized(images, side) if isinstance(side, int) else images.float()
        if as_bytes:
            pixels = pixels.round().clamp(0, 255).to(torch.uint8)
        elif normalization == "student":
            pixels = student.preprocess(pixels)
        else:
            rows = NORMALIZATIONS[str(normalization)]
            mean, std = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in rows)
            pixels = (pixels / 255 - mean) / std
        pixels = pixels if channels_first else pixels.permute(0, 2, 3, 1)
        array = np.ascontiguousarray(pixels.cpu().numpy())
        size = fixed if isinstance(fixed, int) else len(array)
        full = np.concatenate([array, np.repeat(array[-1:], -len(array) % size, axis=0)])
        batches = [session.run(None, {slot.name: full[i : i + size]})[0] for i in range(0, len(full), size)]
        found = torch.from_numpy(np.concatenate(batches)[: len(array)]).to(images.device)
        if student.output_kind == "embedding":
            return F.normalize(found, dim=1)
        return _logits(found, student.output_kind) if session.get_outputs()[0].name == "probabilities" else found

    numbers = [student.mean.flatten().tolist(), student.std.flatten().tolist()] if normalization == "student" else ""
    return Network(outputs, f"{hashlib.sha256(path.read_bytes()).hexdigest()} {normalization} {numbers}")


def _from_table(path: Path, labels: Sequence[str], output_kind: OutputKind) -> tuple[Teacher, int]:
    """Probabilities or embeddings; columns with names may be in any order."""
    files, names, values = _read_table(path)
    if output_kind != "embedding" and names:
        if missing := [label for label in labels if label not in names]:
            raise UserError(f"teacher={path} has no column {missing[0]}")
        if len(names) != values.shape[1]:
            raise UserError(f"teacher={path} names {len(names)} columns and has {values.shape[1]}")
        values = values[:, [names.index(label) for label in labels]]
    found = torch.from_numpy(np.ascontiguousarray(values, np.float32))
    if output_kind == "embedding":
        return TableTeacher(path, files, F.normalize(found, dim=1)), found.shape[1]
    if not bool(((found >= 0) & (found <= 1)).all()):
        strange = float(values[~((values >= 0) & (values <= 1))][0])
        raise UserError(f"teacher={path} should hold probabilities, from 0 to 1; it has {strange}")
    return TableTeacher(path, files, _logits(found, output_kind)), found.shape[1]


def _logits(probabilities: Tensor, output_kind: OutputKind) -> Tensor:
    found = probabilities.float().clamp(1e-6, 1 - 1e-6)
    return found.logit() if output_kind == "attributes" else found.log()


def _read_table(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Names of images, names of columns (empty if the table has none), and values (N, C)."""
    try:
        check_regular(path, None)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as content:
                names = [str(n) for n in content["labels"]] if "labels" in content else []
                files, values = [str(f) for f in content["files"]], np.asarray(content["outputs"], np.float32)
        else:
            with path.open(newline="", encoding="utf-8-sig") as file:
                header, *rows = [row for row in csv.reader(file) if row]
            values = np.array([row[1:] for row in rows], np.float32)
            files, names = [row[0] for row in rows], [name.strip() for name in header[1:]]
    except (OSError, ValueError, TypeError, KeyError, EOFError, csv.Error, *BAD_ARRAY) as error:
        raise UserError(f"teacher={path} cannot be read as a table: {first_line(error)}") from error
    if values.ndim != 2 or len(values) != len(files):
        raise UserError(f"teacher={path} should have a row of outputs for each of its {len(files)} images")
    return files, names, values


def _resized(images: Tensor, side: int) -> Tensor:
    images = images.float()
    if images.shape[-1] == side:
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True)


def teacher_of(module: TaskModule, data: SuiteData) -> Teacher:
    """The teacher that a task's configuration names, for training on this data, behind its cache if it has one.

    Raises:
        UserError: only a checkpoint names it, or as `load_teacher`.
    """
    settings, labels, student = module.config, module.labels, module.model
    assert isinstance(student, PooledNet)
    if not module.asks_teacher:
        raise UserError(
            f"this needs the run's teacher, which is used only if you name it: teacher={settings['teacher']}"
        )
    dataset, distill = data.dataset("train"), settings["distill"]
    dataset = dataset.images if isinstance(dataset, People) else dataset
    assert isinstance(dataset, ImageSet)
    teacher = load_teacher(settings["teacher"], labels, student, dataset.resolution, distill["normalization"])
    if isinstance(teacher, TableTeacher):
        teacher.check(sample.path for sample in dataset.samples)
    if distill["cache"] is None or not teacher.by_view:
        return teacher
    if not len(dataset):
        raise UserError("distill.cache does not work with streams of images: set distill.cache=null")
    return Cached(teacher, Path(distill["cache"]), dataset, student.outputs)
