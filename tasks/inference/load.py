"""The Python entry point: `from tasks import load`."""

import os
from collections.abc import Sequence
from pathlib import Path

from backbones.errors import UserError
from tasks.inference.hub import FILE, local
from tasks.inference.predictor import Predictor


def load(
    path: str | os.PathLike[str], *, threshold: float | None = None, only: Sequence[str] | None = None
) -> Predictor:
    """A trained model, ready for `predict`, from a run folder, a checkpoint (.ckpt, .safetensors), an export's folder
    or the Hugging Face Hub (hub://<owner>/<name>).

    A checkpoint runs in PyTorch, on the GPU if there is one; an export in its own runtime, without torch. `threshold`
    is the lowest score to report, by default the model's own. A multi-task run predicts with all of its tasks, or with
    those named in `only`; `result.parts` has their results.

    Raises:
        UserError: `path` is none of these, damaged, cannot be downloaded, or its runtime is not installed; or
            `threshold` is given for tasks without scores.
    """
    if threshold is not None and not 0 <= threshold < 1:
        raise UserError(f"threshold={threshold} must be in [0, 1)")
    path = Path(local(os.fspath(path)))
    if not path.exists():
        raise UserError(f"there is no checkpoint {path}")
    if (path / "model.json").is_file():
        from tasks.export.package import read_spec

        spec = read_spec(path)
        if spec["format"] != "torch":
            from tasks.inference.exported import ExportedPredictor

            if only is not None:
                raise UserError(f"only={','.join(only)} is for multi-task runs; {path} is an export")
            return ExportedPredictor(path, spec, threshold)
    elif path.is_dir() and not ((path / "checkpoints").is_dir() or (path / FILE).is_file()):
        raise UserError(f"{path} is neither a run folder, which has checkpoints, nor an export, which has model.json")
    from tasks.inference.checkpoint import open_checkpoint

    return open_checkpoint(path, threshold, only)
