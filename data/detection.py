"""What all detection data sets share: records, samples, batches and loaders."""

import logging
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from backbones.errors import UserError
from data.base import SPLITS, Batch, Split, SuiteData
from data.crops import resize_box, resize_square
from data.image_file import image_size
from data.images import first_readable, read_image
from data.notes import note_boxes, note_dropped
from data.seeding import Progress
from data.splits import Source, given_splits, with_val
from data.table import says_splits
from data.tar import SampleSource, is_member
from data.transforms import View, change_light, mosaic, one_view, view

log = logging.getLogger(__name__)

# Mosaics are used only in epochs that begin before this fraction of the training (YOLOX, arXiv 2107.08430, sect. 2.1).
MOSAIC_UNTIL = 0.8
CROP_EPOCHS = 100  # shorter trainings are better without random crops (BENCHMARKS.md, "Random crops")
SAMPLE = 200  # images of a split whose size is compared with the annotated one


@dataclass(frozen=True)
class Record:
    """One annotated image. Boxes (N, 4) are xyxy pixels of the upright image in float64, the precision of the metrics;
    labels (N,) index the label names.
    """

    path: Path
    image_id: int
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray  # (N,) pixels, of the object's outline if the data has one
    crowd: np.ndarray  # (N,) bool: regions to ignore rather than objects
    difficult: np.ndarray  # (N,) bool: objects that the metrics ignore, each with its first detection
    size: tuple[float, float] = (0.0, 0.0)  # annotated width and height; 0 if not annotated


def objects(record: Record) -> list[dict[str, Any]]:
    """The objects of a record, as in the .json of a shard's sample."""
    columns = record.labels, record.boxes, record.areas, record.crowd, record.difficult
    return [
        {"label": label, "box": box, "area": area}
        | ({"crowd": True} if crowd else {})
        | ({"difficult": True} if difficult else {})
        for label, box, area, crowd, difficult in zip(*(column.tolist() for column in columns), strict=True)
    ]


def usable(
    boxes: np.ndarray, size: tuple[float, float], path: Path, dropped: Counter[str], least: float = 0
) -> np.ndarray:
    """Which of an image's boxes (N, 4) xyxy are usable (N,): finite, with sides longer than `least`, and not entirely
    outside of the image. The others are counted in `dropped` by reason.

    `size` is the annotated (width, height). If it is not positive, or a box is outside of it, the file's size is used.
    """
    with np.errstate(over="ignore"):
        finite = np.asarray(np.isfinite(boxes.astype(np.float32)).all(axis=1))  # training uses float32
    solid = finite & (boxes[:, 2:] > boxes[:, :2] + least).all(axis=1)

    def inside(width: float, height: float) -> np.ndarray:
        return np.all((boxes[:, 2:] > 0) & (boxes[:, :2] < (width, height)), axis=1)

    kept = solid & inside(*size) if min(size) > 0 else np.zeros_like(solid)
    if (kept != solid).any():
        if found := image_size(path):
            kept = solid & inside(*found)
        elif min(size) <= 0:
            kept = solid
    faults: dict[str, np.ndarray] = {
        "that are not finite": ~finite,
        "without area": finite & ~solid,
        "outside of their images": solid & ~kept,
    }
    for reason, rows in faults.items():
        dropped[reason] += int(rows.sum())
    note_boxes(path, size, boxes, faults)
    return kept


def report_dropped(source: Path | str, dropped: Counter[str]) -> None:
    """Logs how many boxes of an annotation file are not used, and why."""
    note_dropped(dropped)
    for reason, count in dropped.items():
        if count:
            log.warning("%s: dropped %d boxes %s", source, count, reason)


@dataclass
class DetectionBatch(Batch):
    """Images (B, 3, R, R) uint8; boxes (B, N, 4) in their pixels, labels (B, N), -1 where padded."""

    boxes: Tensor
    labels: Tensor
    image_ids: list[int]


@dataclass(frozen=True)
class Augmentation:
    """SSD's random crop (auto: in trainings of at least CROP_EPOCHS epochs), horizontal flip, and the probabilities of
    mosaic and photometric distortion.
    """

    crop: bool | Literal["auto"] = False
    flip: bool = False
    mosaic: float = 0.0
    photometric: float = 0.0

    def crops(self, progress: Progress) -> bool:
        """Whether images are cropped in an epoch."""
        return progress.epochs >= CROP_EPOCHS if self.crop == "auto" else self.crop


def shrunk(image: Tensor, side: int) -> Tensor:
    """An image (3, H, W) to be kept in memory, resized to a shorter side of at most `side` pixels: only JPEGs can be
    decoded at a smaller scale.
    """
    if (shorter := min(image.shape[1:])) <= side:
        return image
    height, width = (round(v * side / shorter) for v in image.shape[1:])
    return resize_box(image, (0, 0, *image.shape[:0:-1]), height, width)


def draw_view(image: Tensor, size: tuple[int, int], record: Record, *, crop: bool, flip: bool) -> View:
    """A view of a decoded image (3, H, W), with the objects of its record except crowds; `size` is the file's (height,
    width).
    """
    scale = [image.shape[2] / size[1], image.shape[1] / size[0]] * 2
    shown = ~record.crowd
    return view(image, record.boxes[shown] * scale, record.labels[shown], crop=crop, flip=flip)


def compose(views: Sequence[View], side: int, photometric: float) -> dict[str, Tensor]:
    """A view, or a mosaic of four, as an image (3, side, side) with its boxes (N, 4) and labels (N,). `photometric` is
    the probability of photometric distortion.
    """
    image, boxes, labels = mosaic(views, side) if len(views) > 1 else one_view(views[0], side)
    if photometric and torch.rand(()) < photometric:
        image = change_light(image)
    return {"image": image, "boxes": torch.from_numpy(boxes).float(), "labels": torch.from_numpy(labels)}


class DetectionSet(Dataset[dict[str, Any]]):
    """Records as samples. An unreadable image is replaced by the next, and reported in the batch."""

    def __init__(self, records: Sequence[Record], side: int, augmentation: Augmentation) -> None:
        self.records = records
        self.side = side
        self.augmentation = augmentation
        self.progress = Progress()
        self.weights: Tensor | None = None  # (N,) relative frequencies of the images in mosaics; None: uniform
        # decoded images, for crops or not, and their files' (height, width); None: no cache
        self.cache: dict[int, tuple[bool, Tensor, tuple[int, int]]] | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = first_readable(self._sample, index, len(self))
        wanted, views = self.augmentation, [sample["view"]]
        if wanted.mosaic and self.progress.done < MOSAIC_UNTIL and torch.rand(()) < wanted.mosaic:
            rows = torch.randint(len(self), (3,)) if self.weights is None else self.weights.multinomial(3, True)
            others = [first_readable(self._sample, row, len(self)) for row in rows.tolist()]
            views += [other["view"] for other in others]
            sample["bad"] = [problem for s in (sample, *others) for problem in s["bad"]]
        return sample | compose(views, self.side, wanted.photometric)

    def _sample(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        crop = self.augmentation.crops(self.progress)
        image, size = self._read(record, index, crop)
        seen = draw_view(image, size, record, crop=crop, flip=self.augmentation.flip)
        return {"view": seen, "image_id": record.image_id, "size": size}

    def read_side(self, crop: bool) -> int:
        """The pixels that an image's shorter side needs: crops are enlarged."""
        return self.side * 3 // 2 if crop else self.side

    def _read(self, record: Record, index: int, crop: bool) -> tuple[Tensor, tuple[int, int]]:
        side = self.read_side(crop)
        if self.cache is None:
            return read_image(record.path, side)
        if index not in self.cache or self.cache[index][0] != crop:
            image, size = read_image(record.path, side)
            # what is not cropped is resized once, as in prediction
            self.cache[index] = crop, shrunk(image, side) if crop else resize_square(image, side), size
        return self.cache[index][1:]


def collate(samples: list[dict[str, Any]]) -> DetectionBatch:
    """Stacks samples, padding boxes with zeros and labels with -1 to the batch's largest count."""
    most = max(len(s["labels"]) for s in samples)
    boxes = torch.zeros(len(samples), most, 4)
    labels = torch.full((len(samples), most), -1)
    for i, sample in enumerate(samples):
        boxes[i, : len(sample["boxes"])] = sample["boxes"]
        labels[i, : len(sample["labels"])] = sample["labels"]
    return DetectionBatch(
        images=torch.stack([s["image"] for s in samples]),
        boxes=boxes,
        labels=labels,
        image_ids=[s["image_id"] for s in samples],
        sizes=torch.tensor([s["size"] for s in samples]),
        bad=[problem for s in samples for problem in s["bad"]],
    )


class DetectionData(SuiteData):
    """Loaders of a detection data set; a format gives `labels` and `records`."""

    def __init__(
        self,
        root: str,
        resolution: int,
        *,
        crop: bool | Literal["auto"] = "auto",
        flip: bool = True,
        photometric: float = 0.5,
        mosaic: float = 0.5,
        balance: float = 0.0,
        cache_images: bool | Literal["auto"] = "auto",
        **settings: Any,
    ) -> None:
        super().__init__(root, **settings)
        self.resolution = resolution
        self.augmentation = Augmentation(crop, flip, mosaic, photometric)
        self.balance = balance
        self.cache_images = cache_images

    def with_val(self, sources: dict[str, Source]) -> dict[str, Source]:
        """As `data.splits.with_val`; a test split that becomes val is reported."""
        found = with_val(sources)
        if found is not sources:
            self.add_choice("val is test")
        return found

    def leave_out_test(self, sources: dict[str, Any]) -> None:
        """If there is a val split, removes a test split that was found without boxes (its labels are often not
        published) from the sources: val is evaluated in its place.
        """
        if "val" in sources:
            del sources["test"]
            self.add_choice("test has no boxes, val is measured")

    def split_images(
        self, paths: Sequence[Path], names: Sequence[Sequence[str]], words: Sequence[str] = ()
    ) -> list[str]:
        """The split of each image, empty if it is left out, given its path, its objects' class names and its word in a
        column of splits: by the words; or by its folder, if folders are named after splits; otherwise a fifth is drawn
        for val.
        """
        keys = [os.path.relpath(path, self.root) for path in paths]
        words = words if says_splits(words) else ()
        if words:
            self.add_choice("splits by the column of splits")
        given = given_splits(self.root, keys, words, self.add_choice)
        if "val" in given:
            return [split or "" for split in given]
        train = {key: of_image for key, of_image, split in zip(keys, names, given, strict=True) if split}
        images = Counter(name for of_image in train.values() for name in set(of_image))
        rarest = [min(of_image, key=lambda name: (images[name], name), default="") for of_image in train.values()]
        drawn = self.draw_val(list(train), rarest)
        return [drawn.get(key, "") for key in keys]

    def records(self, split: Split) -> list[Record]:
        """The images of a split.

        Raises:
            UserError: the split's files are absent or unreadable.
        """
        raise NotImplementedError("a data format defines records")

    def sample_sources(self, split: Split) -> list[SampleSource]:
        """The objects of each image: class index, box in pixels, area, and whether it is a crowd or difficult."""
        return [SampleSource(record.path, {"objects": objects(record)}) for record in self.records(split)]

    def build_dataset(self, split: Split) -> DetectionSet:
        records = self.records(split)
        if not records:
            raise UserError(f"{self.root}: the {split} split has no images")
        if not any(record.path.exists() or is_member(record.path) for record in records):
            raise UserError(
                f"{self.root}: none of the {len(records)} images of the {split} split exist, such as {records[0].path}"
            )
        if all(r.crowd.all() for r in records):
            raise UserError(f"{self.root}: none of the {len(records)} images of the {split} split has a usable box")
        if (np.concatenate([r.boxes for r in records])[:, 2:] <= 1).all():  # inside of the first pixel
            raise UserError(
                f"{self.root}: the boxes of the {split} split are normalised (0 to 1); they must be in pixels"
            )
        augmentation = self.augmentation if split == "train" else Augmentation()
        dataset = DetectionSet(records, self.resolution, augmentation)
        dataset.weights = self.sampling_weights(dataset) if split == "train" else None
        if self.keeps_images(4 * dataset.read_side(bool(augmentation.crop)) ** 2 * len(records)):
            dataset.cache = {}
        return dataset

    def examples(self) -> dict[str, int]:
        dataset = self.dataset("train")
        assert isinstance(dataset, DetectionSet)
        counts = Counter(label for record in dataset.records for label in record.labels[~record.crowd].tolist())
        return {name: counts[i] for i, name in enumerate(self.labels)}

    def check(self) -> None:
        super().check()
        self.warn_of_unread(r.path for s in SPLITS for r in self.records(s))
        for split in SPLITS[:2]:
            self.warn_of_sizes(split)
        seen = {s: {int(label) for r in self.records(s) for label in r.labels} for s in SPLITS[:2]}
        if lacking := [self.labels[label] for label in sorted(seen["val"] - seen["train"])]:
            log.warning("%s: val has classes that train lacks: %s", self.root, ", ".join(lacking))

    def warn_of_sizes(self, split: Split) -> None:
        """Logs if over a tenth of a sample of a split's images have another size than was annotated."""
        known = [record for record in self.records(split) if min(record.size) > 0]
        sample = known[:: math.ceil(len(known) / SAMPLE) or 1]
        pairs = [(record, found) for record in sample if (found := image_size(record.path))]
        wrong = [(record, found) for record, found in pairs if record.size != found]
        if 10 * len(wrong) > len(pairs):
            (width, height), size = wrong[0][0].size, "{} x {}".format(*wrong[0][1])
            log.warning(
                "%s: %d of %d %s images that were looked at have another size than was annotated, such as %s: "
                "%g x %g annotated, %s found (turned as EXIF says); boxes may not fit: annotate these files again",
                self.root,
                len(wrong),
                len(pairs),
                split,
                wrong[0][0].path.name,
                width,
                height,
                size,
            )

    def summary(self) -> str:
        records = {split: self.records(split) for split in SPLITS}
        if [r.path for r in records["test"]] == [r.path for r in records["val"]]:
            del records["test"]
        images = ", ".join(f"{len(own)} {split}" for split, own in records.items())
        boxes = sum(int((~record.crowd).sum()) for own in records.values() for record in own)
        return f"{images} images, {boxes} boxes of {len(self.labels)} class{'es' if len(self.labels) > 1 else ''}"

    def sampling_weights(self, dataset: Dataset) -> Tensor | None:
        """Repeat factor sampling (LVIS, Gupta et al. 2019, section 3.2): a class in a fraction f < `balance` of the
        images is drawn sqrt(balance / f) times as often; an image has the largest factor of its classes.
        """
        assert isinstance(dataset, DetectionSet)
        if not self.balance:
            return None
        if dataset.weights is not None:
            return dataset.weights
        present = np.stack([np.bincount(r.labels[~r.crowd], minlength=len(self.labels)) > 0 for r in dataset.records])
        fraction = present.mean(axis=0).clip(min=1 / len(present))
        factors = np.maximum(1, np.sqrt(self.balance / fraction))
        return torch.from_numpy(np.maximum(1, (present * factors).max(axis=1)))

    collate = staticmethod(collate)
