"""A cache on disk of teacher outputs, so that none is computed twice."""

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backbones.errors import UserError
from backbones.files import folder_lock
from data.classification import ClassificationBatch, ImageSet
from tasks.distill.teacher import Teacher


class Cached(Teacher):
    """Runs `teacher` once on each view of each image, in this run or an earlier one.

    The outputs are stored in one memory-mapped file (N, V, C + 1) float32 for N images of V views; its last column is 1
    where the others are known. Its name changes with the teacher, the images and their preprocessing.

    Raises:
        UserError: the number of views is not fixed, or the file cannot be written or is damaged.
    """

    def __init__(self, teacher: Teacher, folder: Path, dataset: ImageSet, outputs: int) -> None:
        if not dataset.views:
            raise UserError("distill.cache needs a fixed number of crops of each image: set data.views, say to 4")
        self.teacher = teacher
        shape = (len(dataset), dataset.views, outputs + 1)
        name = hashlib.sha256(f"{teacher.identity()} {dataset.fingerprint()} {shape}".encode()).hexdigest()[:24]
        self.path = folder / f"{name}.npy"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with folder_lock(folder):  # processes that start together map the same file
                if not self.path.exists():
                    for left in folder.glob(f".{name}.*.part"):  # of a killed process
                        left.unlink(missing_ok=True)
                    partial = folder / f".{name}.{os.getpid()}.part"
                    try:
                        np.lib.format.open_memmap(partial, "w+", np.float32, shape).flush()
                        if hasattr(os, "posix_fallocate"):  # a full disk would kill the process later, without a word
                            with partial.open("r+b") as file:
                                os.posix_fallocate(file.fileno(), 0, partial.stat().st_size)
                        partial.replace(self.path)
                    finally:
                        partial.unlink(missing_ok=True)
            self.known = np.lib.format.open_memmap(self.path, "r+")
        except OSError as error:
            raise UserError(f"distill.cache={folder} cannot be used: {error.strerror}") from error
        except ValueError as error:
            raise UserError(f"the cache {self.path} is damaged; delete it") from error
        if self.known.shape != shape:
            raise UserError(f"the cache {self.path} is damaged; delete it")

    @property
    def direct(self) -> Teacher:
        return self.teacher

    def __call__(self, images: Tensor, batch: ClassificationBatch | None = None) -> Tensor:
        assert batch is not None
        rows, views = np.array(batch.rows), np.array(batch.views)
        missing = np.flatnonzero(self.known[rows, views, -1] == 0)
        if len(missing):
            chosen = images[torch.from_numpy(missing).to(images.device)]
            with torch.autocast(images.device.type, enabled=False):  # a later run may have another precision
                outputs = self.teacher(chosen).float().cpu().numpy()
            self.known[rows[missing], views[missing], :-1] = outputs
            self.known[rows[missing], views[missing], -1] = 1  # last, so that no missing output is taken for known
        return torch.from_numpy(self.known[rows, views, :-1]).to(images.device)
