"""python -m tests.benchmarks.multitask: one backbone for the five demo tasks, beside a network for each.

Arms: (a) five single runs; (b) the backbone of one of these, frozen, under new heads; joint runs that share (c) all,
(d) all but normalization, (e) all but depthwise kernels too; (f) the best of these with learned weights of the losses.
In every arm a task has the same number of batches of the same size. (a) and the best joint arm have all seeds, the
others with the first. Change is the mean over tasks of the primary metric relative to (a).
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tasks import load
from tasks.run import execute
from tests.benchmarks.timing import machine

TASKS = ("detection", "dogs", "faces", "embedding", "geo")
FROZEN = "dogs"  # whose backbone arm (b) has
SHARES = {"c": "all", "d": "norm", "e": "depthwise"}


class Arm(NamedTuple):
    """Of a seed: each task's primary metric, parameters, seconds of training, and the folders of its runs."""

    metrics: dict[str, float]
    params_m: float
    seconds: float
    folders: list[Path]


def single(task: str, name: str, common: list[str], more: list[str]) -> dict[str, Any]:
    return execute([f"task={task}", *common, *more, f"name={name}"])


def singles(seed: int, common: list[str], arm: str, more: list[str]) -> Arm:
    """A run for each task; arm (b) stands on the frozen backbone of one of arm (a)."""
    found = {task: single(task, f"{arm}-{seed}", [*common, f"seed={seed}"], more) for task in TASKS}
    params = sum(content["cost"]["params_m"] for content in found.values())
    if arm == "b":  # which is stored once
        state = torch.load(Path(found[FROZEN]["folder"]) / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
        shared = sum(v.numel() for k, v in state.items() if k.startswith("model.backbone.") and "running" not in k)
        params -= (len(TASKS) - 1) * shared / 1e6
    metrics = {task: content["metrics"]["primary"] for task, content in found.items()}
    seconds = sum(content["seconds"] for content in found.values())
    return Arm(metrics, params, seconds, [Path(content["folder"]) for content in found.values()])


def joint(seed: int, common: list[str], arm: str, more: list[str]) -> Arm:
    tasks = f"multitask.tasks=[{','.join(TASKS)}]"
    content = execute(["task=multitask", tasks, *common, *more, f"seed={seed}", f"name={arm}-{seed}"])
    metrics = {n: content["metrics"][f"{n}/{part['primary']}"] for n, part in content["parts"].items()}
    return Arm(metrics, content["cost"]["params_m"], content["seconds"], [Path(content["folder"])])


def change(arm: Arm, reference: dict[str, float]) -> float:
    """In percent, the mean over tasks."""
    return 100 * statistics.mean(arm.metrics[task] / max(reference[task], 1e-9) - 1 for task in TASKS)


def photo_ms(arm: Arm, photo: Path, rounds: int = 5) -> float:
    """The least time of all answers to a photo, from the file on."""
    models = [load(folder) for folder in arm.folders]
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for model in models:
            list(model.predict(photo))
        times.append(1e3 * (time.perf_counter() - start))
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500, help="batches that each task has")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("settings", nargs="*", help="settings that hold for all runs")
    options = parser.parse_args()
    common = [f"paths.runs={options.runs}", "backbone.alpha=0.5", "logger.images=0", "trainer.progress_bar=false"]
    common += [f"trainer.steps={options.steps}", *options.settings]

    arms: dict[str, list[Arm]] = {"a": [singles(seed, common, "a", []) for seed in range(options.seeds)]}
    frozen = f"backbone.weights={options.runs / FROZEN / 'a-0' / 'checkpoints' / 'best.ckpt'}"
    arms["b"] = [singles(0, common, "b", [frozen, "trainer.freeze_backbone=true"])]
    reference = arms["a"][0].metrics
    for arm, share in SHARES.items():
        arms[arm] = [joint(0, common, arm, [f"multitask.share={share}"])]
    best = max(SHARES, key=lambda arm: change(arms[arm][0], reference))
    more = [f"multitask.share={SHARES[best]}"]
    arms["f"] = [joint(0, common, "f", [*more, "multitask.balance=uncertainty"])]
    arms[best] += [joint(seed, common, best, more) for seed in range(1, options.seeds)]

    print(machine())
    print(f"\n| arm | {' | '.join(TASKS)} | change (%) | M parameters | MB | training (s) | ms a photo |")
    print("|---" * (len(TASKS) + 6) + "|")
    means = {t: statistics.mean(a.metrics[t] for a in arms["a"]) for t in TASKS}
    photo = next(Path("datasets/demo_scenes").rglob("*.jpg"))
    for name, found in arms.items():
        changes = [change(arm, arms["a"][i].metrics if name != "a" else means) for i, arm in enumerate(found)]
        spread = f" ± {statistics.stdev(changes):.1f}" if len(changes) > 1 else ""
        cells = [f"{statistics.mean(arm.metrics[task] for arm in found):.3f}" for task in TASKS]
        cells += [
            f"{statistics.mean(changes):+.1f}{spread}",
            f"{found[0].params_m:.3f}",
            f"{4 * found[0].params_m:.2f}",
        ]
        cells += [f"{statistics.mean(arm.seconds for arm in found):.0f}", f"{photo_ms(found[0], photo):.1f}"]
        print(f"| ({name}) | {' | '.join(cells)} |")
    content = {
        name: [arm._asdict() | {"folders": [str(f) for f in arm.folders]} for arm in f] for name, f in arms.items()
    }
    (options.runs / "multitask.json").write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
