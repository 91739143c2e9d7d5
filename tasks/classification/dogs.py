"""Classification of dog breeds, trained on web images that are not near-duplicates of test images."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import faiss
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from backbones.errors import UserError
from data.base import SuiteData
from data.classification import ImageSet, Sample, collate
from data.dogs import DogsData
from data.text import read_json, write_json
from tasks.classification.task import ClassificationTask
from tasks.distill.cache import Cached

log = logging.getLogger(__name__)


class DogsTask(ClassificationTask):
    """Classification that compares web images with the test set before training."""

    published_classes = 120

    def check(self, data: SuiteData) -> None:
        if self._compares(data) and not self.has_weights:
            raise UserError(
                "leaving out web images that resemble test images needs a pretrained network: an untrained one finds "
                "all images alike. Set backbone.pretrained=true or backbone.weights=<file>, or task.drop_near_test=0"
            )
        super().check(data)

    def _compares(self, data: SuiteData) -> bool:
        return isinstance(data, DogsData) and data.train == "web" and bool(self.config["task"]["drop_near_test"])

    def setup(self, stage: str) -> None:
        super().setup(stage)
        data = self.data
        if stage != "fit" or not self._compares(data):
            return
        threshold = self.config["task"]["drop_near_test"]
        folder = self.trainer.log_dir if self.trainer.logger else None  # else it is the working directory
        record = Path(folder) / "drop_near_test.json" if folder else None
        if record and record.exists():  # a resumed run: its network has changed since the comparison
            content = read_json(record)
            if not isinstance(content, dict) or not all(type(s) in (int, float) for s in content.values()):
                raise UserError(f"{record} is damaged; start a new run")
            near = {data.root / path: float(s) for path, s in content.items()}
        else:
            near = self.drop_near_test(data, threshold)
            if record and self.trainer.is_global_zero:
                root = data.root  # images elsewhere keep their absolute path
                own = {str(p.relative_to(root) if p.is_relative_to(root) else p): s for p, s in near.items()}
                write_json(record, own)
        data.leave_out(near)
        if self.budget:
            self.budget.plan(self.trainer, data)
        if near and isinstance(self.teacher, Cached):
            self.check(data)  # the cache has a row for each training image
        log.info("excluded %d web images as near-duplicates of test images (cosine over %g)", len(near), threshold)

    def drop_near_test(self, data: DogsData, threshold: float) -> dict[Path, float]:
        """The web images whose cosine to a test image exceeds the threshold, by the initial network's features."""
        web, tests = data.web_samples(), data.samples("test")
        was_training = self.model.training
        self.model.eval()
        vectors = [self._vectors(data, samples) for samples in (web, tests)]
        self.model.train(was_training)
        similarity = nearest_similarity(*vectors)
        return {s.path: round(float(v), 4) for s, v in zip(web, similarity, strict=True) if v > threshold}

    def _vectors(self, data: DogsData, samples: list[Sample]) -> np.ndarray:
        images = ImageSet(samples, self.resolution)
        loader = DataLoader(images, data.batch_size, num_workers=data.workers, collate_fn=collate)
        return embed_all(lambda x: self.model.embed(self.model.preprocess(x)), (batch.images for batch in loader))


@torch.inference_mode()
def embed_all(embed: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> np.ndarray:
    """Unit vectors (N, D) float32 of all the images in batches (B, 3, R, R)."""
    rows = [torch.nn.functional.normalize(embed(images).float(), dim=1).cpu().numpy() for images in batches]
    return np.ascontiguousarray(np.concatenate(rows), np.float32)


def nearest_similarity(queries_ND: np.ndarray, gallery_MD: np.ndarray) -> np.ndarray:
    """Cosine (N,) of each query to the most similar row of the gallery; all are unit vectors."""
    index = faiss.IndexFlatIP(gallery_MD.shape[1])
    index.add(gallery_MD)
    similarity, _ = index.search(queries_ND, 1)
    return similarity[:, 0]
