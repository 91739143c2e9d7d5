"""The geo-localization task: its metrics, its results and its maps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.base import Split
from data.geo.cells import Hierarchy
from data.geo.places import GeoBatch
from data.geo.s2 import Floats
from data.geo.sphere import great_circle_km, positions_of
from tasks.engine.figures import log_image, to_tensor
from tasks.engine.metrics import RowMetrics
from tasks.engine.task import TaskModule
from tasks.geo import maps
from tasks.geo.model import CellTable, GeoLocator
from tasks.geo.results import place

THRESHOLDS_KM = (1, 25, 200, 750, 2500)  # street, city, region, country, continent (Im2GPS, PlaNet)


def error_metrics(errors_km: Floats) -> dict[str, float]:
    """Shares (0..1) of errors (N,) within the five distances, the mean of the shares, and the median error in km."""
    shares = {f"within_{km}km": float((errors_km <= km).mean()) for km in THRESHOLDS_KM}
    return {**shares, "mean_share": float(np.mean([*shares.values()])), "median_km": float(np.median(errors_km))}


class GeoTask(RowMetrics, TaskModule):
    """Classifies photos into cells; `primary` is the mean of the shares within the five published distances."""

    primary = "mean_share"
    published_classes = 26_263  # PlaNet's cells
    model: GeoLocator

    def build_model(self) -> GeoLocator:
        settings = {name: self.config["task"][name] for name in ("dropout", "soft_km", "decode", "top_cells")}
        self.table = CellTable.from_labels(self.labels)
        return GeoLocator(self.build_backbone(GeoLocator.strides), self.table, **settings)

    def has_classes(self, labels: Sequence[str]) -> bool:
        """Whether they are the same cells, wherever in them the photos are."""
        return [label.partition(" ")[0] for label in labels] == [own.partition(" ")[0] for own in self.labels]

    def compute_losses(self, batch: GeoBatch) -> dict[str, Tensor]:
        logits = self.model(self.model.preprocess(batch.images))
        return {"cell": self.model.loss(logits, batch.cells, batch.positions)}

    def update_metrics(self, batch: GeoBatch) -> None:
        directions = self.named_outputs(batch.images)["directions"]
        positions = positions_of(directions.float().cpu().numpy())
        truth = batch.positions.cpu().numpy()
        index, errors = batch.rows.cpu().numpy(), great_circle_km(positions, truth)
        # index in the split, true latitude and longitude, error in km
        rows = np.concatenate([index[:, None], truth, errors[:, None]], axis=1)
        self.measured.update(torch.from_numpy(rows).to(batch.positions.device, torch.float32))

    def compute_metrics(self, split: Split) -> dict[str, float]:
        return error_metrics(self.rows()[:, 2])

    def rows(self) -> Floats:
        """The measured photos, each once (N, 3): true latitude and longitude, error in km."""
        measured: Floats = self.measured_rows()[:, 1:].numpy().astype(np.float64)
        return measured

    def figures(self) -> dict[str, Tensor]:
        rows = self.rows()
        return {"errors": to_tensor(maps.error_map(rows[:, :2], rows[:, 2]))}

    def on_fit_start(self) -> None:
        hierarchy: Hierarchy = self.data.hierarchy
        log_image(self.trainer, "cells", to_tensor(maps.cell_map(hierarchy.partitions[-1])))
        if self.trainer.is_global_zero and self.trainer.logger and self.trainer.log_dir:
            for i, partition in enumerate(hierarchy.partitions):
                partition.save(Path(self.trainer.log_dir) / f"cells-{i}.csv")

    def result_settings(self) -> dict[str, Any]:
        fine = self.table.positions[-len(self.table.tokens) :]
        return {"cells": {"tokens": self.table.tokens, "positions": fine.round(5).tolist()}}

    def ground_truth(self, batch: GeoBatch) -> list[dict[str, Any]]:
        return [place(*position.tolist()) for position in batch.positions.cpu().double().numpy()]
