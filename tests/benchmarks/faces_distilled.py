"""python -m tests.benchmarks.faces_distilled: what a teacher is worth to a small network of faces, on the drawn demo.

Attributes: a teacher of alpha 1 learns from all labels; students learn from its soft outputs on the same pictures
without labels, or from a tenth of the labels in as many steps. Embeddings: a teacher of alpha 1 learns from people,
a student of alpha 0.5 from it; measured on all pairs of pictures of the forty people that none of them has seen.
Two processes of one thread each; figures of the test split, at the best epoch by the validation split.
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

os.environ["OMP_NUM_THREADS"] = "1"  # of each process; torch reads it at its import

from data.demo.faces import write_faces
from tasks.checkpoint import load_checkpoint
from tasks.run import execute
from tasks.train import evaluate
from tests.benchmarks.timing import machine

TEACHER_EPOCHS, EPOCHS = 40, 30
FEW = 0.1  # share of the labels
ALPHAS = (0.25, 0.5)
LABELS = ("task=faces", "data.labelled=0", "data.rest=keep", "data.views=8")
PEOPLE = ("task=embedding", "data.views=8")


def run(job: tuple[str, Sequence[str]]) -> dict[str, float]:
    """Trains, and measures on the test split."""
    place, overrides = job
    started = time.perf_counter()
    execute([*overrides, f"name={Path(place).name}", f"paths.runs={Path(place).parent.parent}"])
    checkpoint = load_checkpoint(place)
    found = evaluate(checkpoint, checkpoint["suite"]["config"])
    print(f"{Path(place).name}: {found['primary']:.3f} in {time.perf_counter() - started:.0f} s", flush=True)
    return found


def jobs(runs: Path, seeds: int, common: Sequence[str]) -> dict[str, tuple[str, Sequence[str]]]:
    found = {}
    for seed in range(seeds):
        for alpha in ALPHAS:
            here = (*common, f"backbone.alpha={alpha}", f"seed={seed}")
            teacher = (f"teacher={runs / 'faces' / 'teacher'}", f"distill.cache={runs / 'cache'}")
            few = (f"data.labelled={FEW}", f"trainer.max_epochs={round(EPOCHS / FEW)}", "trainer.validate_every=100")
            found[f"few-{alpha}-{seed}"] = ("task=faces", *here, *few, "trainer.weight_decay=0.0005")
            more = (f"trainer.max_epochs={EPOCHS}", "trainer.validate_every=10")
            found[f"distilled-{alpha}-{seed}"] = (*LABELS, *here, *teacher, *more)
        teacher = (f"teacher={runs / 'embedding' / 'teacher'}", f"distill.cache={runs / 'cache'}")
        more = (f"trainer.max_epochs={EPOCHS}", "trainer.validate_every=10", "backbone.alpha=0.5", f"seed={seed}")
        found[f"embedding-{seed}"] = (*PEOPLE, *common, *teacher, *more)
    return {k: (str(runs / v[0].removeprefix("task=") / k), v) for k, v in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, help="where the demo lies, or is drawn to")
    arguments = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        runs, data = Path(folder), arguments.data or Path(folder) / "drawn_faces"
        write_faces(data)
        common = (f"data.root={data}", "data.workers=0", "trainer.progress=false", "logger.pictures=0")
        teach = (*common, "backbone.alpha=1", f"trainer.max_epochs={TEACHER_EPOCHS}", "trainer.validate_every=10")
        teachers = [(str(runs / t / "teacher"), (f"task={t}", *teach)) for t in ("faces", "embedding")]
        attributes, people = pool.map(run, teachers)
        planned = jobs(runs, arguments.seeds, common)
        found = dict(zip(planned, pool.map(run, planned.values()), strict=True))
    report(attributes, people, found, arguments.seeds)
    print(f"{machine()}; {time.perf_counter() - start:.0f} s in all, two processes of one thread")


def report(attributes: dict[str, float], people: dict[str, float], found: dict, seeds: int) -> None:
    print(f"\nteacher of attributes, alpha 1, all labels: mean AP {100 * attributes['map']:.1f}")
    print("| student | seeds | mean AP |")
    print("|---|---|---|")
    for alpha in ALPHAS:
        for way in ("few", "distilled"):
            each = [100 * found[f"{way}-{alpha}-{seed}"]["map"] for seed in range(seeds)]
            words = f"{alpha}, {'a tenth of the labels' if way == 'few' else 'distilled, no labels'}"
            print(f"| {words} | {', '.join(f'{v:.1f}' for v in each)} | {statistics.mean(each):.1f} |")
    key = "tar_far1e-2"
    each = [100 * found[f"embedding-{seed}"][key] for seed in range(seeds)]
    print(f"\nteacher of embeddings: TAR at FAR 1e-2 {100 * people[key]:.1f}, LFW {100 * people['lfw_accuracy']:.1f}")
    print(f"students, alpha 0.5, distilled: {', '.join(f'{v:.1f}' for v in each)}, mean {statistics.mean(each):.1f}")


if __name__ == "__main__":
    main()
