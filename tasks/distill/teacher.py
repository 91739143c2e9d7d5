"""Teachers for distillation; they are neither trained nor saved.

For an image, a teacher gives outputs (C,) of the same kind as the student: logits of classes or of attributes, or an
embedding of length 1. The student's `output_kind` says which.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones.errors import UserError
from data.classification import ClassificationBatch


class Teacher:
    """Returns outputs (B, C) float32 for views of the batch's images, RGB (B, 3, H, W) in 0..255.

    It is not an nn.Module, so that checkpoints leave it out, and copies of a task share it.
    """

    by_view = True  # whether its outputs depend on the view, or on the image alone

    @property
    def direct(self) -> "Teacher":
        """The teacher without a cache, for images of another split."""
        return self

    def __deepcopy__(self, _: dict[int, Any]) -> "Teacher":
        return self

    def __call__(self, images: Tensor, batch: ClassificationBatch | None = None) -> Tensor:
        raise NotImplementedError

    def identity(self) -> str:
        """A string that changes with anything that its outputs depend on."""
        raise NotImplementedError


class Network(Teacher):
    """A network, or a function for one outside torch; `source` says what its outputs depend on besides weights."""

    def __init__(self, outputs: Callable[[Tensor], Tensor], source: str, network: nn.Module | None = None) -> None:
        self.outputs, self.source, self.network = outputs, source, network
        if network is not None:
            network.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(self, images: Tensor, batch: ClassificationBatch | None = None) -> Tensor:
        if self.network is not None:
            self.network.to(images.device)
        return self.outputs(images).float()

    def identity(self) -> str:
        digest = hashlib.sha256(self.source.encode())
        state = {} if self.network is None else self.network.state_dict()
        for name, tensor in state.items():
            digest.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


class TableTeacher(Teacher):
    """Precomputed outputs, one row for each image, whatever the view. Rows are found by the last parts of an image's
    path, as many as the table's names have.
    """

    by_view = False

    def __init__(self, path: Path, names: Sequence[str], outputs_NC: Tensor) -> None:
        self.path, self.outputs = path, outputs_NC
        self.rows = {name: i for i, name in enumerate(names)}
        self.depths = sorted({name.count("/") + 1 for name in names}, reverse=True)
        if len(self.rows) < len(names):
            twice = next(name for i, name in enumerate(names) if self.rows[name] != i)
            raise UserError(f"teacher={path} has two rows for {twice}")

    def __call__(self, images: Tensor, batch: ClassificationBatch | None = None) -> Tensor:
        assert batch is not None
        return self.outputs[[self.row(path) for path in batch.paths]].to(images.device)

    def check(self, paths: Iterable[Path]) -> None:
        """Raises UserError if one of the images is not in the table, or two are found in the same row."""
        found: dict[int, Path] = {}
        for path in paths:
            if (other := found.setdefault(self.row(str(path)), path)) != path:
                raise UserError(
                    f"teacher={self.path} has one row for {path} and {other}: name images by their folders too"
                )

    def row(self, path: str) -> int:
        """Raises UserError if the image is not in the table."""
        parts = Path(path).parts
        for depth in self.depths:
            if (row := self.rows.get("/".join(parts[-depth:]))) is not None:
                return row
        raise UserError(f"teacher={self.path} has no row for {path}")
