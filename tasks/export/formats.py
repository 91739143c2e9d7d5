"""The formats: name, required packages and capabilities."""

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from backbones.errors import UserError, first_line
from backbones.files import check_regular
from tasks.export.runtimes import RUNNERS


def installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # it is None in sys.modules
        return False


@dataclass(frozen=True)
class Format:
    """A format's description, which needs none of its packages. Its module has `write`, `Runner` and `EXAMPLE`."""

    name: str  # also the extra of this package that installs `packages`
    suffix: str
    packages: tuple[str, ...]  # modules
    runtime: str  # pip name of the package that runs the file
    needs: str  # what example.py needs, in words
    with_nms: bool  # whether the file can contain non-maximum suppression
    free_batch: bool
    int8: bool = True

    def module(self) -> Any:
        """The module that writes and runs it.

        Raises:
            UserError: its packages are not installed.
        """
        if missing := [name for name in self.packages if not installed(name)]:
            raise UserError(f"format={self.name} needs {', '.join(missing)}: pip install -e '.[{self.name}]'")
        return importlib.import_module(f"tasks.export.to_{self.name}")

    def check_runtime(self, path: Path) -> None:
        """Raises UserError if the runtime of a file of this format is not installed."""
        if not installed(self.runtime.replace("-", "_")):
            raise UserError(f"{path} needs {self.runtime}: pip install {self.runtime}")

    def runner(self, path: Path, threads: int) -> Any:
        """A file of this format, ready to run on arrays; needs only its runtime, not the packages that write it.

        Raises:
            UserError: its runtime is not installed, or cannot run the file, or it is not a regular file.
        """
        self.check_runtime(path)
        try:
            check_regular(path, None)  # a runtime would wait for a pipe
            return RUNNERS[self.name](path, threads)
        except Exception as error:  # each runtime raises its own kinds
            raise UserError(f"{path} cannot be run: {first_line(error)}") from error


ONNX = ("onnx", "onnxscript", "onnxruntime")
NUMPY_RUNTIME = "executorch-numpy-runtime (Python 3.12 or later), or executorch, which brings torch"
LITERT = ("litert_torch", "ai_edge_litert", "ai_edge_quantizer")
FORMATS = {
    f.name: f
    for f in (
        Format("onnx", ".onnx", ONNX, "onnxruntime", "onnxruntime", with_nms=True, free_batch=True),
        Format("litert", ".tflite", LITERT, "ai-edge-litert", "ai-edge-litert", with_nms=False, free_batch=False),
        Format("executorch", ".pte", ("executorch",), "executorch", NUMPY_RUNTIME, with_nms=False, free_batch=False),
        Format("torch", ".safetensors", (), "torch", "this suite", with_nms=True, free_batch=True, int8=False),
    )
}
