"""Applications of one backbone, and the commands that run them: python -m tasks.<command>.

From Python: `from tasks import load; load("runs/detection/x").predict(["a.jpg"])`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.inference.load import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    if name == "load":  # only now, so that a command imports nothing that it does not use
        from tasks.inference.load import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
