"""A detector learns: it finds the objects of a few scenes again after a minute's training."""

from pathlib import Path

import numpy as np
import pytest
import torch

from backbones.mobilenet_v1 import MobileNetV1
from data.coco import CocoData
from tasks.detection.coco_eval import CocoEvaluator
from tasks.detection.ssd import SSD


@pytest.mark.parametrize("loss", ["focal", "hard_negative"])
def test_ssd_overfits_eight_scenes(loss: str, scenes: Path) -> None:
    torch.manual_seed(0)
    files = {"train_json": "val.json", "train_images": "val", "val_json": "val.json", "val_images": "val"}
    data = CocoData(str(scenes), 160, **files, workers=0, batch_size=8)
    batch = next(iter(data.val_dataloader()))
    model = SSD(MobileNetV1(0.25, strides=SSD.strides), len(data.labels), 160, alpha=0.25, loss=loss)
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=120)
    for _ in range(120):
        losses = model.loss(model(model.preprocess(batch.images)), batch.boxes, batch.labels)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        schedule.step()

    with torch.no_grad():  # in training mode: a hundred steps do not settle the running statistics
        found = model.postprocess(model(model.preprocess(batch.images)))
    evaluator = CocoEvaluator()
    scale = (batch.sizes.flip(1).repeat(1, 2) / 160).numpy()
    for i, image_id in enumerate(batch.image_ids):
        kept = found.scores[i].numpy() > 0
        boxes, scores, labels = (table[i].numpy()[kept] for table in found)
        evaluator.add(image_id, boxes * np.float32(scale[i]), scores, labels)
    assert evaluator.compute(data.records("val"), data.labels)["ap50"] > 0.8
