"""What all classification data sets share: samples, batches and loaders."""

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from backbones.errors import UserError
from data.base import Batch, Split, SuiteData
from data.boxes import CENTER, Box, center_box, full_image, random_box
from data.crops import CropReader
from data.images import first_readable
from data.tar import SampleSource


class Sample(NamedTuple):
    """An image and the index of its class, or a row of attributes (A,); only the part in `box`, in pixels of the
    upright image, is used.
    """

    path: Path
    label: int | np.ndarray
    box: Box | None = None


@dataclass
class ClassificationBatch(Batch):
    """Images (B, 3, R, R) uint8 in channels_last and the indices of their classes (B,), or attributes (B, A)."""

    labels: Tensor
    paths: list[str]
    rows: list[int] = field(default_factory=list)  # indices of the samples in the split
    views: list[int] = field(default_factory=list)  # indices of the samples' views, if their number is fixed


def collate(samples: Sequence[dict[str, Any]]) -> ClassificationBatch:
    """Copies the images, mirrored if their sample says so, into one channels_last tensor."""
    first = samples[0]["image"]
    images = torch.empty((len(samples), *first.shape), dtype=torch.uint8, memory_format=torch.channels_last)
    for image, sample in zip(images, samples, strict=True):
        image.copy_(sample["image"].flip(2) if sample["mirror"] else sample["image"])
    return ClassificationBatch(
        images=images,
        labels=torch.from_numpy(np.asarray([s["label"] for s in samples])),
        sizes=torch.tensor([s["size"] for s in samples]),
        paths=[s["path"] for s in samples],
        bad=[problem for s in samples for problem in s["bad"]],
        rows=[s["row"] for s in samples],
        views=[s["view"] for s in samples],
    )


class ImageSet(Dataset[dict[str, Any]]):
    """Random resized crop and flip if `min_scale` is given, else the centre crop, or with None the whole image.

    With `views`, an image has only that many crops, of which one is drawn each time. `cache_images` keeps decoded
    images in memory. An unreadable image is replaced by the next, and reported in the batch.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        resolution: int,
        *,
        min_scale: float | None = None,
        flip: bool = False,
        center_crop: float | None = CENTER,
        views: int = 0,
        cache_images: bool = False,
    ) -> None:
        self.samples = list(samples)
        self.resolution, self.min_scale, self.flip = resolution, min_scale, flip
        self.center_crop, self.views = center_crop, views
        self.reader = CropReader(resolution, 2 * resolution if cache_images else None)  # crops rarely show more detail

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return first_readable(self._sample, index, len(self))

    def _sample(self, row: int) -> dict[str, Any]:
        view = random.randrange(self.views) if self.views else 0
        rng = random.Random(view + row * self.views) if self.views else random
        sample = self.samples[row]
        image, size = self.reader.read(sample.path, self.chooser(sample.box, rng))
        mirror = self.flip and rng.random() < 0.5
        facts = {"label": sample.label, "path": str(sample.path), "size": size}
        return {"image": image, "mirror": mirror, "row": row, "view": view, **facts}

    def chooser(self, within: Box | None, rng: Any = random) -> Any:
        """A function from an image's height and width to the box of its crop."""
        if self.min_scale is None and self.center_crop is None and within is None:
            return full_image
        if self.min_scale is None:
            return partial(center_box, within=within, fraction=self.center_crop or 1.0)
        return partial(random_box, min_scale=self.min_scale, within=within, rng=rng)

    def fingerprint(self) -> str:
        """A digest of the views' settings, and of the images' names, sizes in bytes and boxes, in order: a file that is
        replaced by one of the same name and size is not noticed.
        """
        # "one draw": caches of outputs of another crop, or in the precision of their run, have other names
        settings = ("one draw", self.resolution, self.min_scale, self.flip, self.center_crop, self.views)
        seen = hashlib.sha256(repr(settings).encode())
        for path, _, box in self.samples:
            size = path.stat().st_size if path.exists() else 0
            seen.update(f"{path.parent.name}/{path.name} {size} {box}\n".encode())
        return seen.hexdigest()


class ClassificationData(SuiteData):
    """Loaders of a classification data set; a format gives `labels` and `samples`."""

    def __init__(
        self,
        root: str,
        resolution: int,
        *,
        min_scale: float = 0.35,
        flip: bool = True,
        center_crop: float | None = CENTER,
        views: int = 0,
        cache_images: bool | Literal["auto"] = False,
        **settings: Any,
    ) -> None:
        super().__init__(root, **settings)
        self.resolution, self.min_scale, self.flip = resolution, min_scale, flip
        self.center_crop, self.views, self.cache_images = center_crop, views, cache_images

    def samples(self, split: Split) -> list[Sample]:
        """The images of a split.

        Raises:
            UserError: the split's files are absent or unreadable.
        """
        raise NotImplementedError("a data format defines samples")

    def build_dataset(self, split: Split) -> ImageSet:
        samples = self.samples(split)
        if not samples:
            raise UserError(f"{self.root}: the {split} split has no images")
        return self.image_set(split, samples)

    def image_set(self, split: Split, samples: Sequence[Sample]) -> ImageSet:
        """An ImageSet of samples, with the crops of a split."""
        keep = self.keeps_images(20 * self.resolution**2 * len(samples))
        if split == "train":
            crops: dict[str, Any] = {"min_scale": self.min_scale, "flip": self.flip, "views": self.views}
            return ImageSet(samples, self.resolution, cache_images=keep, **crops)
        return ImageSet(samples, self.resolution, center_crop=self.center_crop, cache_images=keep)

    def sample_sources(self, split: Split) -> list[SampleSource]:
        """The class indices or known attributes of the samples, and the boxes of those that have one."""
        sources = []
        for path, label, box in self.samples(split):
            annotations: dict[str, Any] = {"label": label}
            if not isinstance(label, int):
                known = zip(self.labels, label.tolist(), strict=True)
                annotations = {"attributes": {name: value for name, value in known if value >= 0}}
            sources.append(SampleSource(path, annotations | ({"box": [float(x) for x in box]} if box else {})))
        return sources

    def check(self) -> None:
        super().check()
        own = [d.samples for d in self.datasets.values() if isinstance(d, ImageSet)]  # a stream has no files
        self.warn_of_unread(sample.path for samples in own for sample in samples)

    def examples(self) -> dict[str, int]:
        dataset = self.dataset("train")
        samples = dataset.samples if isinstance(dataset, ImageSet) else []  # unknown for a stream
        counts = Counter(s.label for s in samples if isinstance(s.label, int))
        return {name: counts[i] for i, name in enumerate(self.labels)} if counts else {}

    collate = staticmethod(collate)
