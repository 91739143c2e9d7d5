"""At each validation: what attributes and embeddings get most wrong, in TensorBoard and in the run folder."""

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from data.base import SuiteData
from data.classification import ImageSet
from tasks.classification.mistakes import captioned
from tasks.embedding.task import EmbeddingTask
from tasks.embedding.verification import Roc
from tasks.engine.figures import log_image, render_figure
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
            image = shown(dataset, int(index[row]))
            cells.append(captioned(image, [f"{name} {scores[row]:.2f}", "has it" if truth else "has it not"]))
        cells += [torch.full((3, SIDE, SIDE), 255, dtype=torch.uint8)] * (EACH - len(rows))
    return make_grid(torch.stack(cells), nrow=EACH, padding=4, pad_value=255)


def shown(dataset: ImageSet, row: int) -> Tensor:
    """An image of the split, (3, SIDE, SIDE) uint8."""
    image = dataset[row]["image"][None].contiguous()
    return torch.nn.functional.interpolate(image, (SIDE, SIDE), mode="bilinear")[0]


class HardPairs(Callback):
    """Draws the ROC curve, the least alike images of one person and the most alike of two."""

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, EmbeddingTask)
        index, people, vectors = module.rows()  # from all ranks, so all must ask
        if not trainer.is_global_zero:
            return
        data: SuiteData = trainer.datamodule  # type: ignore[attr-defined]
        dataset = data.dataset("val")
        assert isinstance(dataset, ImageSet)
        log_image(trainer, "roc", render_figure(roc_figure(Roc.of(vectors, people))))
        log_image(trainer, "hard_pairs", pairs_page(index[:MOST], people[:MOST], vectors[:MOST], dataset))


def pairs_page(index: np.ndarray, people: np.ndarray, vectors: np.ndarray, dataset: ImageSet) -> Tensor:
    """Above, the least alike pairs of one person, below, the most alike of two."""
    cosine = vectors @ vectors.T
    first, second = np.triu_indices(len(people), 1)
    cosine, same = cosine[first, second], people[first] == people[second]
    cells = []
    for wanted, sign, words in ((same, 1, "one person"), (~same, -1, "two people")):
        found = np.flatnonzero(wanted)
        for i in found[np.argsort(sign * cosine[found])[:EACH]]:
            pair = torch.cat([shown(dataset, int(index[j])) for j in (first[i], second[i])], dim=2)
            cells.append(captioned(pair, [f"{words}, similarity {cosine[i]:.2f}"]))
        cells += [torch.full((3, SIDE, 2 * SIDE), 255, dtype=torch.uint8)] * (EACH - min(EACH, len(found)))
    return make_grid(torch.stack(cells), nrow=EACH, padding=4, pad_value=255)


def roc_figure(roc: Roc) -> Figure:
    """True against false accepts, the latter on a logarithmic axis."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.semilogx(np.maximum(roc.far, 0.5 / max(roc.impostor, 1)), roc.tar)
    axes.set(
        xlabel="false accept rate",
        ylabel="true accept rate",
        ylim=(0, 1.02),
        xlim=(max(1e-6, 1 / max(roc.impostor, 1)), 1),
    )
    axes.grid(alpha=0.4)
    return figure
