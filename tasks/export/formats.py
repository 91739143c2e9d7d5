"""The formats: what each is called, needs and can hold."""

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from backbones.errors import UserError


def installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # it is None in sys.modules
        return False


@dataclass(frozen=True)
class Format:
    """What is known of a format without its packages. Its module has `write`, `Runner` and `EXAMPLE`."""

    name: str  # also of the extra of our own package that brings what writes it
    suffix: str
    packages: tuple[str, ...]  # modules
    runtime: str  # what runs the file, as pip knows it
    needs: str  # likewise for example.py
    with_nms: bool  # whether non-maximum suppression can be inside
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
