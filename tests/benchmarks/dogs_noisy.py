"""python -m tests.benchmarks.dogs_noisy <mobilenet_2_5_224_tf_no_top.h5>: what the noisy web set is worth.

On the drawn dogs, from ImageNet weights: `experiment=dogs_noisy` against the clean list alone, which is trained for
as many steps as both stages together. Top-1 on the test list, measured once, after the last epoch.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from tasks.run import execute
from tests.benchmarks.timing import machine

NOISY_STEPS, CLEAN_STEPS = 8 * (936 // 32), 15 * (144 // 32)  # epochs x batches of experiment=dogs_noisy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, help="where the demo lies, or is drawn to")
    arguments = parser.parse_args()
    start, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as runs:
        shared = [
            f"backbone.weights={arguments.weights}",
            "data=demo_dogs",
            f"data.root={arguments.data or Path(runs) / 'demo_dogs'}",
            f"paths.runs={runs}",
            "logger.images=0",
        ]
        for seed in range(arguments.seeds):
            settings = [*shared, f"seed={seed}"]
            staged = execute(["experiment=dogs_noisy", *settings, f"name=noisy{seed}"])
            epochs = (NOISY_STEPS + CLEAN_STEPS) // (144 // 32)
            alone = ["experiment=dogs_noisy", "stages=null", f"trainer.max_epochs={epochs}", f"name=clean{seed}"]
            clean = execute([*alone, *settings])
            rows.append((100 * clean["metrics"]["top1"], 100 * staged["metrics"]["top1"]))
            print(f"seed {seed}: clean only {rows[-1][0]:.1f}, noisy then clean {rows[-1][1]:.1f}", flush=True)
    print(f"{machine()}; {time.perf_counter() - start:.0f} s for all runs")
    print(f"{'seed':8}{'clean only':>12}{'noisy, clean':>14}")
    for seed, (clean_top1, staged_top1) in enumerate(rows):
        print(f"{seed:<8}{clean_top1:12.1f}{staged_top1:14.1f}")
    means = [statistics.mean(column) for column in zip(*rows, strict=True)]
    print(f"{'mean':8}{means[0]:12.1f}{means[1]:14.1f}")


if __name__ == "__main__":
    main()
