"""Writes LiteRT (TensorFlow Lite) files with litert-torch, and runs them with XNNPACK. The batch size is fixed."""

import copy

import torch

from tasks.export.graph import Job
from tasks.export.runtimes import LiteRTRunner, in_batches, silenced

# The operators of the network itself. Box decoding and the last softmax stay in float, for its range.
QUANTIZED = (
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "FULLY_CONNECTED",
    "PAD",
    "PADV2",
    "RESIZE_NEAREST_NEIGHBOR",
    "MEAN",
    "TRANSPOSE",
)
Runner = LiteRTRunner
EXAMPLE = """
def run(pixels: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    from ai_edge_litert.interpreter import Interpreter

    outputs = Interpreter(str(FOLDER / SPEC["file"])).get_signature_runner()(args_0=pixels)
    return [outputs[f"output_{i}"] for i in range(len(outputs))]
"""


def write(job: Job) -> None:
    """Writes the graph; int8 quantization is static, with per-channel weights, and keeps the input and output types."""
    # litert-torch 0.10 copies weights in another memory layout, and mistakes copies of equal shape for one tensor
    graph = copy.deepcopy(job.graph).to(memory_format=torch.contiguous_format)
    with silenced():
        import litert_torch

        litert_torch.convert(graph, (job.example,)).export(str(job.path))
        if len(job.calibration):
            quantize(job)


def quantize(job: Job) -> None:
    from ai_edge_quantizer.quantizer import Quantizer

    quantizer = Quantizer(str(job.path))
    for operation in QUANTIZED:
        quantizer.add_static_config(".*", operation, activation_num_bits=8, weight_num_bits=8)
    batches = in_batches(job.calibration, len(job.example))
    ranges = quantizer.calibrate({"serving_default": [{"args_0": batch} for batch in batches]}, num_threads=2)
    result = quantizer.quantize(ranges, enable_progress_report=False)
    job.path.write_bytes(result.quantized_model or b"")
