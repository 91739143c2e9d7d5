"""python -m tests.benchmarks.contention: a training step on shared cores, by how long waiting threads spin.

SSD 300, batch 8, forward, loss, backward and optimizer, on all cores: alone, beside one busy process per core, and two
trainings at once. OpenMP's threads wait for each other dozens of times in a step; a thread that spins meanwhile blocks
a core that others need. The settings of the environment take turns, each in processes of its own. Two to three minutes
on two cores. Target: at most 2.5 times the time alone, beside one busy process per core and for each of two trainings
at once (80 % of half the speed).
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "as it comes": {},
    "GOMP_SPINCOUNT=2000": {"GOMP_SPINCOUNT": "2000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
}
OWN = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS"
STEP = """
import sys, time, torch
from backbones.mobilenet_v1 import MobileNetV1
from tasks.detection.ssd import SSD
from tasks.engine.hardware import keep_freed_memory, use_granted_cores
keep_freed_memory()
use_granted_cores()
torch.manual_seed(0)
model = SSD(MobileNetV1(strides=SSD.strides), 20, 300).to(memory_format=torch.channels_last)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)
images = torch.randint(0, 256, (8, 3, 300, 300), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
corner = 200 * torch.rand(8, 5, 2)
boxes, labels = torch.cat([corner, corner + 80], dim=2), torch.randint(20, (8, 5))
print("ready", flush=True)
sys.stdin.readline()
times, end = [], time.monotonic() + float(sys.argv[1])
while time.monotonic() < end or len(times) < 5:
    start = time.perf_counter()
    loss = sum(model.loss(model(model.preprocess(images)), boxes, labels).values())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    times.append(time.perf_counter() - start)
print(sorted(times[2:])[len(times[2:]) // 2], flush=True)
"""


def steps(setting: dict[str, str], others: int, trainings: int, seconds: float) -> float:
    """Median seconds of a step: the mean of `trainings` at once, beside `others` busy processes."""
    environment = {k: v for k, v in os.environ.items() if k not in OWN} | setting
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", STEP, str(seconds)],
            cwd=ROOT,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(trainings)
    ]
    for process in processes:
        assert process.stdout
        process.stdout.readline()
    with busy(others):
        for process in processes:  # all are ready
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
        return statistics.fmean(float(process.communicate()[0]) for process in processes)


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Runs `count` processes that compute without a pause."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=8)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(arguments.rounds):
        for place, others, trainings in (("alone", 0, 1), (f"beside {cores} busy", cores, 1), ("two at once", 0, 2)):
            for name, setting in SETTINGS.items():
                found.setdefault((name, place), []).append(steps(setting, others, trainings, arguments.seconds))
    print(f"SSD 300, batch 8, {cores} cores; median of {arguments.rounds}")
    (first, _), *_ = found
    alone = statistics.median(found[first, "alone"])
    for (name, place), times in found.items():
        took = statistics.median(times)
        print(f"{name:24} {place:16} {1000 * took:6.0f} ms  {took / alone:.2f} x as it comes, alone")


if __name__ == "__main__":
    main()
