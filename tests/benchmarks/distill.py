"""python -m tests.benchmarks.distill: what caching a teacher's outputs saves, epoch by epoch.

A student of alpha 0.25 learns the drawn faces' attributes from a teacher of alpha 1 and from timm's ResNet-50 in ONNX
(both of random weights: the cost is the same). With one view of each image all outputs are cached after the first
epoch; with four, more of them after each.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import timm
import torch

from data.demo.faces import write_faces
from tasks.distill.load import teacher_of
from tasks.engine.config import load_config
from tasks.engine.options import locate
from tasks.engine.start import build_data, setup
from tasks.run import execute
from tests.benchmarks.timing import machine

EPOCHS = 4


def epochs(config: dict[str, Any]) -> list[float]:
    """Seconds of each epoch of training steps, loader included."""
    setup()
    data = build_data(config)
    task = locate(config, "task")(config, data.labels).train()
    if config["teacher"]:
        task.teacher = teacher_of(task, data)
    optimizer = torch.optim.AdamW(task.model.parameters(), fused=True)
    loader, seconds = data.train_dataloader(), []
    for _ in range(EPOCHS):
        start = time.perf_counter()
        for batch in loader:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = sum(task.compute_losses(batch).values())
            loss.backward()
            optimizer.step()
        seconds.append(time.perf_counter() - start)
    return seconds


def large_teacher(path: Path, classes: int, side: int) -> None:
    torch.manual_seed(0)
    network, example = timm.create_model("resnet50", num_classes=classes).eval(), torch.zeros(2, 3, side, side)
    names: dict[str, Any] = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
    torch.onnx.export(network, (example,), str(path), dynamo=False, **names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="where the demo lies, or is drawn to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs, data = Path(folder), arguments.data or Path(folder) / "demo_faces"
        write_faces(data)
        common = ["task=faces", "data=demo_faces", f"data.root={data}", "data.workers=0"]
        quick = ["trainer.max_epochs=1", "data.labelled_fraction=0.05", "logger.images=0", "trainer.progress_bar=false"]
        execute([*common, *quick, "backbone.alpha=1", f"paths.runs={runs}", "name=teacher"])
        student = [*common, "backbone.alpha=0.25"]
        teacher, large = (f"teacher={runs / name}" for name in ("faces/teacher", "resnet50.onnx"))
        large_teacher(runs / "resnet50.onnx", classes=12, side=64)
        ways = {
            "labels, no teacher": [],
            "alpha 1": [teacher],
            "alpha 1, 1 view kept": [teacher, f"distill.cache={runs / 'one'}", "data.views=1"],
            "alpha 1, 4 views kept": [teacher, f"distill.cache={runs / 'four'}", "data.views=4"],
            "ResNet-50": [large, "distill.normalization=imagenet"],
            "ResNet-50, 1 view kept": [
                large,
                "distill.normalization=imagenet",
                f"distill.cache={runs / 'one'}",
                "data.views=1",
            ],
        }
        print(f"{machine()}; seconds of each epoch of 1,600 images")
        for name, more in ways.items():
            seconds = epochs(load_config([*student, *more]))
            print(f"{name:24}{''.join(f'{s:8.2f}' for s in seconds)}   first / second {seconds[0] / seconds[1]:.2f}")


if __name__ == "__main__":
    main()
