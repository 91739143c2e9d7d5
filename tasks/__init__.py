"""Applications of one backbone, and the commands that run them: python -m tasks.<command>.

From Python: `from tasks import load; load("runs/detection/x").predict(["a.jpg"])`.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.inference.load import load

__all__ = ["load"]

# OpenMP's threads wait for each other dozens of times in a step. One that spins meanwhile takes the core from other
# processes, another run of a sweep among them, so they soon sleep (BENCHMARKS.md, Shared cores). libgomp reads this
# when torch is loaded.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "2000"


def __getattr__(name: str) -> Any:
    if name == "load":  # only now, so that a command imports nothing that it does not use
        from tasks.inference.load import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
