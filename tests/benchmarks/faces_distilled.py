"""python -m tests.benchmarks.faces_distilled: what a teacher is worth to a small face network, on the drawn demo.

Attributes: a teacher of alpha 1 learns from all labels; students learn from its soft outputs on the same images
without labels, or from a tenth of the labels in as many steps. Embeddings: a teacher of alpha 1 learns from labelled
people, students of alpha 0.5 from the teacher, on 9,600 unlabelled images of other people; measured after the last
epoch on all image pairs of the forty people that none of them has seen.
Two processes of one thread each; attributes are measured on the test split, at the best epoch of the validation split.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # per process; torch reads it when imported

from data.demo.faces import write_faces
from tasks.engine.checkpoint import load_checkpoint
from tasks.engine.start import saved_data
from tasks.engine.task import restore
from tasks.engine.train import evaluate
from tasks.run import execute
from tests.benchmarks.timing import machine

DEMOS = {"faces": "data=demo_faces", "embedding": "data=demo_people"}
EPOCHS = {"teacher": 40, "attributes": 30, "embedding": 18}
MORE = 960  # people on the unlabelled images
FEW = 0.1  # share of the labels
ALPHAS = (0.25, 0.5)
Job = tuple[str, Sequence[str]]


def run(job: Job) -> dict[str, float]:
    """Trains into the run folder that the job names, and measures on the test split."""
    place, overrides = job
    started, used = time.perf_counter(), time.process_time()
    execute([*overrides, f"name={Path(place).name}", f"paths.runs={Path(place).parent.parent}"])
    module = restore(load_checkpoint(place))
    found = evaluate(module, saved_data(module.config, None))
    print(f"{Path(place).name}: {found['primary']:.3f} in {time.perf_counter() - started:.0f} s", flush=True)
    return found | {"cpu": time.process_time() - used}


def teacher(task: str, runs: Path, common: Sequence[str]) -> Job:
    epochs = EPOCHS["teacher"]
    measured = f"trainer.validate_every={10 if task == 'faces' else epochs}"
    job = (f"task={task}", DEMOS[task], *common, "backbone.alpha=1", f"trainer.max_epochs={epochs}", measured)
    return str(runs / task / "teacher"), job


def students(task: str, runs: Path, more: Path, seeds: int, common: Sequence[str]) -> dict[str, Job]:
    """The students of a task's teacher and, for attributes, those trained on few labels."""
    part = "attributes" if task == "faces" else "embedding"
    taught: tuple[str, ...] = (f"teacher={runs / task / 'teacher'}", f"distill.cache={runs / 'cache'}")
    taught += (f"trainer.max_epochs={EPOCHS[part]}",)
    unlabelled: tuple[str, ...] = (
        "data.labelled_fraction=0",
        "data.unlabelled=keep",
        "data.views=8",
        "trainer.validate_every=10",
    )
    if task == "embedding":
        unlabelled = (f"data.train={more / 'img_align_celeba'}", "data.views=6")
        unlabelled += (f"trainer.validate_every={EPOCHS[part]}",)
    few = (
        f"data.labelled_fraction={FEW}",
        f"trainer.max_epochs={round(EPOCHS[part] / FEW)}",
        "trainer.weight_decay=0.0005",
    )
    found = {}
    for alpha in ALPHAS if task == "faces" else ALPHAS[1:]:
        for seed in range(seeds):
            here = (f"task={task}", DEMOS[task], *common, f"backbone.alpha={alpha}", f"seed={seed}")
            found[f"distilled-{alpha}-{seed}"] = (*here, *taught, *unlabelled)
            if task == "faces":
                found[f"few-{alpha}-{seed}"] = (*here, *few, "trainer.validate_every=100")
    return {name: (str(runs / task / name), overrides) for name, overrides in found.items()}


def figures(found: dict[str, dict[str, float]], name: str, metric: str, seeds: int) -> str:
    each = [100 * found[f"{name}-{seed}"][metric] for seed in range(seeds)]
    return f"{', '.join(f'{v:.1f}' for v in each)} | {statistics.mean(each):.1f}"


def report(task: str, taught: dict[str, float], found: dict[str, dict[str, float]], seeds: int) -> None:
    if task == "faces":
        print(f"\n| alpha | learned from | mean AP of seeds 0 to {seeds - 1} | mean |\n|---|---|---|---|")
        print(f"| 1 (teacher) | all labels | {100 * taught['map']:.1f} | |")
        for alpha in ALPHAS:
            for name, words in (("few", "a tenth of the labels"), ("distilled", "the teacher, no labels")):
                print(f"| {alpha} | {words} | {figures(found, f'{name}-{alpha}', 'map', seeds)} |")
        return
    print("\n| | teacher, alpha 1 | students, alpha 0.5 | mean |\n|---|---|---|---|")
    for metric in ("tar_far1e-1", "tar_far1e-2", "tar_far1e-3", "lfw_accuracy", "recall_1"):
        print(f"| {metric} | {100 * taught[metric]:.1f} | {figures(found, 'distilled-0.5', metric, seeds)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", default=["faces", "embedding"], choices=["faces", "embedding"])
    parser.add_argument("--data", type=Path, help="where the demo lies, or is drawn to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        runs, data = Path(folder), arguments.data or Path(folder) / "demo_faces"
        start = time.perf_counter()
        write_faces(data)
        more = Path(folder) / "more"
        common = (f"data.root={data}", "data.workers=0", "trainer.progress_bar=false", "logger.images=0")
        taught = dict(
            zip(arguments.tasks, pool.map(run, (teacher(t, runs, common) for t in arguments.tasks)), strict=True)
        )
        for task in arguments.tasks:
            if task == "embedding":
                write_faces(more, people=MORE, seed=1)
            planned = students(task, runs, more, arguments.seeds, common)
            found = dict(zip(planned, pool.map(run, planned.values()), strict=True))
            report(task, taught[task], found, arguments.seeds)
            cpu = taught[task]["cpu"] + sum(each["cpu"] for each in found.values())
            print(f"{machine()} in each of two processes; {cpu:.0f} s of one core")
            print(f"{time.perf_counter() - start:.0f} s since the beginning", flush=True)


if __name__ == "__main__":
    main()
