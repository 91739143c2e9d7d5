"""What all classification data sets share: samples, batches and loaders."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from backbones.errors import UserError
from data.base import Split, SuiteData
from data.crops import Box, centre_box, random_box, read_crop
from data.images import BadImage


class Sample(NamedTuple):
    """A picture and the index of its class; `box` confines what is looked at, in pixels of the file."""

    path: Path
    label: int
    box: Box | None = None


@dataclass
class Batch:
    """Pictures (B, 3, R, R) uint8 in channels_last and the indices of their classes (B,)."""

    images: Tensor
    labels: Tensor
    sizes: Tensor  # (B, 2) height and width of each file
    paths: list[str]
    bad: list[tuple[str, str]]  # path and reason of each picture that could not be read

    def to(self, device: torch.device, non_blocking: bool = True) -> "Batch":
        """Used by Lightning to move the batch."""
        for name in ("images", "labels", "sizes"):
            setattr(self, name, getattr(self, name).to(device, non_blocking=non_blocking))
        return self

    def pin_memory(self) -> "Batch":
        for name in ("images", "labels", "sizes"):
            setattr(self, name, getattr(self, name).pin_memory())
        return self


def collate(samples: Sequence[dict[str, Any]]) -> Batch:
    """Copies the pictures, mirrored where their sample says so, into one channels_last block."""
    first = samples[0]["image"]
    images = torch.empty((len(samples), *first.shape), dtype=torch.uint8, memory_format=torch.channels_last)
    for image, sample in zip(images, samples, strict=True):
        image.copy_(sample["image"].flip(2) if sample["mirror"] else sample["image"])
    return Batch(
        images=images,
        labels=torch.tensor([s["label"] for s in samples]),
        sizes=torch.tensor([s["size"] for s in samples]),
        paths=[s["path"] for s in samples],
        bad=[problem for s in samples for problem in s["bad"]],
    )


class ImageSet(Dataset[dict[str, Any]]):
    """Samples with a random crop and mirroring where `min_scale` says how small a crop may be, else the centre.

    A picture that cannot be read is replaced by the next, and named in the batch.
    """

    def __init__(
        self, samples: Sequence[Sample], resolution: int, *, min_scale: float | None = None, flip: bool = False
    ) -> None:
        self.samples = list(samples)
        self.resolution, self.min_scale, self.flip = resolution, min_scale, flip

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        bad: list[tuple[str, str]] = []
        for step in range(len(self)):
            sample = self.samples[(index + step) % len(self)]
            try:
                image, size = read_crop(sample.path, self.chooser(sample.box), self.resolution)
            except BadImage as error:
                bad.append(error.args)
                continue
            mirror = self.flip and bool(torch.rand(()) < 0.5)
            facts = {"label": sample.label, "path": str(sample.path), "size": size, "bad": bad}
            return {"image": image, "mirror": mirror, **facts}
        raise UserError(f"none of the {len(self)} pictures can be read, for example {bad[0][0]}: {bad[0][1]}")

    def chooser(self, within: Box | None) -> Any:
        """How to choose the crop of a picture from its height and width."""
        if self.min_scale is None:
            return partial(centre_box, within=within)
        return partial(random_box, min_scale=self.min_scale, within=within)


class ClassificationData(SuiteData):
    """Loaders of a classification data set; a format gives `labels` and `samples`."""

    def __init__(
        self, root: str, resolution: int, *, min_scale: float = 0.35, flip: bool = True, **settings: Any
    ) -> None:
        super().__init__(root, **settings)
        self.resolution, self.min_scale, self.flip = resolution, min_scale, flip

    def samples(self, split: Split) -> list[Sample]:
        """The pictures of a split.

        Raises:
            UserError: the split's files are absent or unreadable.
        """
        raise NotImplementedError("a data format defines samples")

    def dataset(self, split: Split) -> ImageSet:
        samples = self.samples(split)
        if not samples:
            raise UserError(f"{self.root}: the {split} split has no pictures")
        if split == "train":
            return ImageSet(samples, self.resolution, min_scale=self.min_scale, flip=self.flip)
        return ImageSet(samples, self.resolution)

    collate = staticmethod(collate)
