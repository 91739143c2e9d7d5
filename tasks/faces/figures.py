"""At each validation: what attributes and embeddings get most wrong, in TensorBoard and in the run folder."""

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torchvision.utils import make_grid

from data.base import SuiteData
from data.classification import ImageSet
from tasks.engine.figures import captioned, log_image, thumbnail
from tasks.faces.task import FacesTask

WORST, EACH, SIDE = 4, 4, 160  # attributes; images of either mistake; pixels
MOST = 3000  # images among which hard pairs are looked for


class WorstAttributes(Callback):
    """Draws before the task forgets what it measured: callbacks hear of the epoch's end first."""

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, FacesTask)
        index, scores, labels = module.rows()  # from all ranks, so all must ask
        if not trainer.is_global_zero:
            return
        data: SuiteData = trainer.datamodule  # type: ignore[attr-defined]
        dataset = data.dataset("val")
        assert isinstance(dataset, ImageSet)
        precision = module.precisions(scores, labels).nan_to_num(2)
        for place, i in enumerate(precision.argsort()[:WORST].tolist(), start=1):
            page = mistakes_page(module.labels[i], scores[:, i], labels[:, i], index, dataset)
            log_image(trainer, f"worst/{place}", page)


def mistakes_page(name: str, scores: Tensor, labels: Tensor, index: Tensor, dataset: ImageSet) -> Tensor:
    """Above, images that have the attribute and scored lowest, below, those without it that scored highest."""
    cells = []
    for truth, worst_first in ((1, scores), (0, -scores)):
        of_truth = (labels == truth).nonzero()[:, 0]
        rows = of_truth[worst_first[of_truth].argsort()][:EACH].tolist()
        for row in rows:
            image = thumbnail(dataset, int(index[row]), SIDE)
            cells.append(captioned(image, [f"{name} {scores[row]:.2f}", "has it" if truth else "has it not"]))
        cells += [torch.full((3, SIDE, SIDE), 255, dtype=torch.uint8)] * (EACH - len(rows))
    return make_grid(torch.stack(cells), nrow=EACH, padding=4, pad_value=255)
