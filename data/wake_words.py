"""Visual wake words (Chowdhery et al. 2019, section 3): whether COCO's images show a person, or another category."""

from functools import cache
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from data.base import Split
from data.classification import ClassificationData, Sample
from data.files import escapes
from data.text import read_json


def read_presence(annotations: Path, images: Path, category: str, min_area: float) -> list[Sample]:
    """The images of a COCO json file with label 1 if a box of the category, crowds included, has more than the fraction
    `min_area` of the image, else 0.

    Raises:
        UserError: the file is absent, not in COCO's format or lacks the category, or an image is outside of the folder.
    """
    content = read_json(annotations)
    try:
        wanted = {c["id"] for c in content["categories"] if c["name"] == category}
        sizes = {image["id"]: float(image["width"]) * float(image["height"]) for image in content["images"]}
        present = {
            a["image_id"]
            for a in content["annotations"]
            if a["category_id"] in wanted and a["bbox"][2] * a["bbox"][3] > min_area * sizes[a["image_id"]]
        }
        names = {image["id"]: str(image["file_name"]) for image in content["images"]}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise UserError(f"{annotations} is not in COCO's format: {type(error).__name__}: {error}") from error
    if not wanted:
        raise UserError(f"{annotations} has no category {category} (data.category)")
    if strange := next((name for name in names.values() if escapes(name)), None):
        raise UserError(f"{annotations} names an image that is not below {images}: {strange}")
    return [Sample(images / name, int(key in present)) for key, name in names.items()]


class WakeWordsData(ClassificationData):
    """COCO's images, with a category or without; settings are those of data=coco. Test is val if null."""

    def __init__(
        self,
        root: str,
        resolution: int,
        *,
        category: str,
        min_area: float,
        train_json: str,
        train_images: str,
        val_json: str,
        val_images: str,
        test_json: str | None = None,
        test_images: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(root, resolution, **settings)
        self.category, self.min_area = category, min_area
        self.files = {"train": (train_json, train_images), "val": (val_json, val_images)}
        self.files["test"] = test_json or val_json, test_images or val_images
        self._read = cache(read_presence)

    @property
    def labels(self) -> list[str]:
        return [f"no {self.category}", self.category]

    def samples(self, split: Split) -> list[Sample]:
        annotations, images = (self.root / name for name in self.files[split])
        if not images.is_dir():
            raise UserError(f"there is no folder {images}, where the {split} images should be")
        return self._read(annotations, images, self.category, self.min_area)
