"""python -m tests.chaos.mutated: files of every format, damaged by seed: only our own errors, in bounded time.

Each format is read in a process of its own, since C libraries may crash it.
"""

import argparse
import contextlib
import io
import os
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from backbones.errors import UserError
from data.image_file import BadImage, limit_pixels
from data.tar import BadShard
from tests.chaos.mutations import FORMATS

OURS = (BadImage, BadShard, UserError)
SECONDS = 5.0  # of processor time
MEMORY = 1 << 30  # bytes more than before
LARGEST = 1_000_000  # pixels of an image


@dataclass
class Account:
    """The outcomes for the files of a format."""

    read: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)


def read_damaged(form: str, count: int, seed: int, folder: Path) -> Account:
    """Reads `count` damaged files of a format."""
    name, content, change, read = FORMATS[form]
    account, number = Account(), 0
    whole = content() if callable(content) else content
    while number < count:
        receiving, sending = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(receiving)
            with os.fdopen(sending, "w") as pipe, contextlib.redirect_stdout(io.StringIO()):
                for i in range(number, count):
                    file = folder / name
                    file.write_bytes(change(whole, random.Random(f"{seed} {form} {i}")))
                    pipe.write(f"{i}\t{outcome(read, file)}\n")
                    pipe.flush()
            os._exit(0)
        os.close(sending)
        with os.fdopen(receiving) as pipe:
            for line in pipe:
                what = line.rstrip("\n").split("\t")[1]
                number += 1
                account.read += what == "read"
                account.refused += what == "refused"
                if what not in ("read", "refused"):
                    account.faults.append(f"{form} {number - 1}: {what}")
        _, status = os.waitpid(pid, 0)
        if status:
            account.faults.append(f"{form} {number}: the process ended with {status}")
            number += 1
    return account


def outcome(read: Callable[[Path], object], file: Path) -> str:
    """One of: read, refused, or what went wrong."""
    used = time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (int(used + 4 * SECONDS), resource.RLIM_INFINITY))
    before, found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "read"
    try:
        read(file)
    except OURS:  # which the commands print as one line
        found = "refused"
    except BaseException:
        found = " | ".join(traceback.format_exc().splitlines()[-6:]).replace("\t", " ")
    if time.process_time() - used > SECONDS:
        found = f"{time.process_time() - used:.1f} s"
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before > MEMORY >> 10:
        found = "too much memory"
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--forms", nargs="*", default=list(FORMATS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    limit_pixels(LARGEST)
    warnings.simplefilter("ignore")
    total, read = 0, 0
    faults: list[str] = []
    for number, form in enumerate(given.forms):
        count = given.count // len(given.forms) + (number < given.count % len(given.forms))
        with tempfile.TemporaryDirectory() as folder:
            account = read_damaged(form, count, given.seed, Path(folder))
        print(f"{form}: {account.refused} refused, {account.read} read as far as they go", flush=True)
        total, read, faults = total + count, read + account.read, faults + account.faults
    print(*faults, sep="\n")
    print(f"{total} files, {len(faults)} with another error than ours, more than {SECONDS:g} s or {MEMORY >> 30} GiB")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
