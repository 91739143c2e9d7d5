"""python -m tests.benchmarks.multitask: one backbone for the five demo tasks, against a network for each.

Arms: (a) five single runs; (b) the backbone of one of these, frozen, under new heads; joint runs that share (c) all,
(d) all but normalization, (e) all but depthwise kernels too; (f) the best of these with learned loss weights.
In every arm a task has the same number of batches of the same size, and its last weights are measured. (a) and the best
joint arm have all seeds, the others the first. Change is the mean over tasks of the primary metric relative to (a).

Finished runs are not repeated, so that it can be stopped and restarted. With --speed it also times the training steps
and answers of each arm, which needs an otherwise idle machine.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure

from tasks import load
from tests.benchmarks.timing import machine

TASKS = {
    "detection": ["task.resolution=224"],
    "dogs": ["task.resolution=128"],
    "faces": [],
    "embedding": [],
    "geo": ["task.resolution=96"],
}
FROZEN = "dogs"  # the task whose backbone arm (b) uses
SHARES = {"c": "all", "d": "norm", "e": "depthwise"}
NAMES = {
    "a": "single runs",
    "b": f"frozen backbone of {FROZEN}",
    "c": "all shared",
    "d": "own normalization",
    "e": "own depthwise kernels",
    "f": "learned loss weights",
}
EPOCH = 50  # steps at most, so that equal epochs mean equal steps in every arm
SPEED_STEPS = 20


class Arm(NamedTuple):
    """One seed of an arm: each task's primary metric, parameters, and the folders of its runs."""

    metrics: dict[str, float]
    params_m: float
    folders: list[Path]


class Runs:
    """Trains with the command, `jobs` runs at once, with one thread each if there are several."""

    def __init__(self, root: Path, steps: int, jobs: int, settings: list[str]) -> None:
        self.root, self.steps = root, steps
        self.common = ["backbone.alpha=0.5", "trainer.progress_bar=false", "trainer.validate_every=100000"]
        self.common += [f"trainer.limit_train_batches={EPOCH}", *settings]
        self.pool = ThreadPoolExecutor(jobs)
        self.environment = dict(os.environ) | ({"OMP_NUM_THREADS": "1"} if jobs > 1 else {})

    def start(self, task: str, name: str, settings: list[str], steps: int | None = None) -> Any:
        """A future with the content of the run's metrics.json."""
        return self.pool.submit(self._run, task, name, settings, steps or self.steps)

    def _run(self, task: str, name: str, settings: list[str], steps: int) -> dict[str, Any]:
        folder = self.root / task / name
        content = folder / "metrics.json"
        if not content.exists() or json.loads(content.read_text())["state"] != "finished":
            how = [f"resume={folder}"]
            if not (folder / "checkpoints/last.ckpt").exists():
                how = [f"task={task}", f"paths.runs={self.root}", f"name={name}"]
                how += [*self.common, *settings, f"trainer.steps={steps}"]
            print(f"{time.strftime('%H:%M:%S')} {task} {name}", file=sys.stderr, flush=True)
            done = subprocess.run(
                [sys.executable, "-m", "tasks.run", *how],
                env=self.environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise SystemExit(f"{task} {name}: {done.stdout[-1000:]}{done.stderr[-2000:]}")
            told = re.search(r"([\d.]+) s per step", done.stdout)
            (folder / "step.txt").write_text(told[1] if told else "nan")
        found: dict[str, Any] = json.loads(content.read_text()) | {"speed": float((folder / "step.txt").read_text())}
        if found["step"] != steps:
            raise SystemExit(f"{folder} has {found['step']} steps, not {steps}; remove it or give --steps")
        return found


def settings_of(arm: str, best: str | None, root: Path) -> list[str]:
    """The settings that are specific to an arm."""
    if arm == "b":
        return [f"backbone.weights={root / FROZEN / 'a-0/checkpoints/best.ckpt'}", "trainer.freeze_backbone=true"]
    if arm == "f":
        assert best
        return [f"multitask.share={SHARES[best]}", "multitask.balance=uncertainty"]
    return [f"multitask.share={SHARES[arm]}"] if arm in SHARES else []


def start_arm(runs: Runs, arm: str, seed: int, best: str | None = None, **speed: Any) -> list[Any]:
    name = f"{arm}-{seed}" + ("-speed" if speed else "")
    own = [*settings_of(arm, best, runs.root), f"seed={seed}"]
    own += [f"trainer.limit_train_batches={speed['steps']}"] if speed else []
    if arm in "ab":
        return [runs.start(task, name, [*more, *own], **speed) for task, more in TASKS.items()]
    named = [f"{task}.{setting}" for task, more in TASKS.items() for setting in more]
    return [runs.start("multitask", name, [f"multitask.tasks=[{','.join(TASKS)}]", *named, *own], **speed)]


def finish_arm(arm: str, started: list[Any]) -> Arm:
    found = [future.result() for future in started]
    folders = [Path(content["folder"]) for content in found]
    params = sum(content["cost"]["params_m"] for content in found)
    if arm not in "ab":
        parts = found[0]["parts"].items()
        return Arm({n: found[0]["metrics"][f"{n}/{part['primary']}"] for n, part in parts}, params, folders)
    if arm == "b":  # the backbone is stored once
        state = torch.load(folders[0] / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
        shared = sum(v.numel() for k, v in state.items() if k.startswith("model.backbone.") and "running" not in k)
        params -= (len(TASKS) - 1) * shared / 1e6
    return Arm({task: c["metrics"]["primary"] for task, c in zip(TASKS, found, strict=True)}, params, folders)


def change(arm: Arm, reference: dict[str, float]) -> float:
    """Mean relative change over tasks, in percent."""
    return 100 * statistics.mean(arm.metrics[task] / max(reference[task], 1e-9) - 1 for task in TASKS)


def photo_ms(arm: Arm, photo: Path, rounds: int = 15) -> float:
    """Median ms for all tasks' answers to a photo, reading the file included."""
    models = [load(folder) for folder in arm.folders]
    times = []
    for i in range(rounds + 2):
        start = time.perf_counter()
        for model in models:
            list(model.predict(photo))
        if i >= 2:
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def measure_speed(runs: Runs, arms: dict[str, list[Arm]], best: str) -> dict[str, tuple[float, float]]:
    """For each arm: seconds of a step of all tasks, as tasks.run prints it, and ms for all answers to a photo."""
    photo = next(Path("datasets/demo_scenes").rglob("*.jpg"))
    found = {}
    for arm in arms:
        seconds = 0.0
        for started in start_arm(runs, arm, 0, best, steps=SPEED_STEPS):
            seconds += started.result()["speed"]
        found[arm] = (seconds, photo_ms(arms[arm][0], photo))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600, help=f"batches that each task has, of {EPOCH} each epoch")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--picture", type=Path, help="a PNG of all arms")
    parser.add_argument("settings", nargs="*", help="settings that hold for all runs")
    options = parser.parse_args()
    if options.steps % EPOCH:
        parser.error(f"--steps must be a multiple of {EPOCH}")
    runs = Runs(options.runs.absolute(), options.steps, options.jobs, options.settings)

    first = {arm: start_arm(runs, arm, 0) for arm in ("a", *SHARES)}  # the joint runs are the longest
    rest = [start_arm(runs, "a", seed) for seed in range(1, options.seeds)]
    arms = {arm: [finish_arm(arm, started)] for arm, started in first.items()}
    reference = arms["a"][0].metrics
    best = max(SHARES, key=lambda arm: change(arms[arm][0], reference))
    last = {arm: start_arm(runs, arm, 0, best) for arm in "bf"}
    more = [start_arm(runs, best, seed) for seed in range(1, options.seeds)]
    arms["a"] += [finish_arm("a", started) for started in rest]
    arms |= {arm: [finish_arm(arm, started)] for arm, started in last.items()}
    arms[best] += [finish_arm(best, started) for started in more]
    arms = {arm: arms[arm] for arm in sorted(arms)}
    speed = measure_speed(runs, arms, best) if options.speed else {}
    show(arms, speed)
    write(arms, options.runs / "multitask.json")
    if options.picture:
        draw(arms, options.picture)


def show(arms: dict[str, list[Arm]], speed: dict[str, tuple[float, float]]) -> None:
    print(machine())
    print(f"\n| arm | {' | '.join(TASKS)} | change (%) | M parameters | MB | s a step | ms a photo |")
    print("|---" * (len(TASKS) + 6) + "|")
    for name, found in arms.items():
        changes = changes_of(arms, name)
        spread = f" ± {statistics.stdev(changes):.1f}" if len(changes) > 1 else ""
        cells = [f"{statistics.mean(arm.metrics[task] for arm in found):.3f}" for task in TASKS]
        cells += [f"{statistics.mean(changes):+.1f}{spread}"]
        cells += [f"{found[0].params_m:.3f}", f"{4 * found[0].params_m:.2f}"]
        cells += [f"{speed[name][0]:.2f}", f"{speed[name][1]:.1f}"] if name in speed else ["", ""]
        print(f"| ({name}) {NAMES[name]} | {' | '.join(cells)} |")


def changes_of(arms: dict[str, list[Arm]], name: str) -> list[float]:
    """For each seed, relative to the single runs of that seed; for these, relative to their mean."""
    means = {task: statistics.mean(arm.metrics[task] for arm in arms["a"]) for task in TASKS}
    return [change(arm, means if name == "a" else arms["a"][i].metrics) for i, arm in enumerate(arms[name])]


def draw(arms: dict[str, list[Arm]], path: Path) -> None:
    """Parameters and mean change of each arm, with the spread of its seeds, beside each task's metrics."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    plane, bars = figure.subplots(1, 2)
    for name, found in arms.items():
        changes = changes_of(arms, name)
        spread = statistics.stdev(changes) if len(changes) > 1 else 0.0
        plane.errorbar(found[0].params_m, statistics.mean(changes), yerr=spread, fmt="o", capsize=4, label=NAMES[name])
    plane.set_xlabel("million parameters for five tasks")
    plane.set_ylabel("mean change of the metrics (%)")
    plane.margins(0.1)
    plane.grid(alpha=0.3)
    plane.legend(loc="center right")
    for i, found in enumerate(arms.values()):
        heights = [statistics.mean(arm.metrics[task] for arm in found) for task in TASKS]
        bars.bar([place + 0.13 * i for place in range(len(TASKS))], heights, 0.12)
    bars.set_xticks([place + 0.13 * (len(arms) - 1) / 2 for place in range(len(TASKS))], list(TASKS))
    bars.set_ylabel("each task's metric")
    figure.savefig(path, dpi=110)


def write(arms: dict[str, list[Arm]], path: Path) -> None:
    content = {n: [arm._asdict() | {"folders": [str(f) for f in arm.folders]} for arm in f] for n, f in arms.items()}
    path.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
