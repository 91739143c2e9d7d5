"""Writes ONNX files, and runs them in ONNX Runtime. Batch size is dynamic, and the file contains NMS."""

import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from tasks.export.graph import Job
from tasks.export.runtimes import OnnxRunner, at_level, in_batches

QUANTIZED = ["Conv", "Gemm", "Clip", "Relu", "GlobalAveragePool", "MaxPool"]
Runner = OnnxRunner
EXAMPLE = """
def run(pixels: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(FOLDER / SPEC["file"], providers=["CPUExecutionProvider"])
    return session.run(None, {SPEC["input"]["name"]: pixels})
"""


def write(job: Job) -> None:
    """Writes the graph; int8 is static, in QDQ form, with per-channel int8 weights and uint8 activations."""
    import onnx

    with at_level(logging.ERROR, "onnxscript", "onnx_ir", "torch.onnx"):
        program: Any = torch.onnx.export(
            job.graph,
            (torch.cat([job.example, job.example]),),  # a batch of one would become a constant
            dynamo=True,
            input_names=["image"],
            output_names=job.names,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            custom_translation_table=translations(),
            verbose=False,
        )
        model = program.model_proto
    remove_metadata(model.graph)
    if not len(job.calibration):
        onnx.save(model, job.path)
        return
    with tempfile.TemporaryDirectory() as folder:
        exported, prepared = Path(folder) / "float.onnx", Path(folder) / "prepared.onnx"
        onnx.save(model, exported)
        quantize(exported, prepared, job.path, job.calibration)


def remove_metadata(graph: Any) -> None:
    """Removes the exporter's stack traces from an onnx.GraphProto: they name folders of this machine."""
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]


def quantize(exported: Path, prepared: Path, path: Path, calibration: npt.NDArray[Any]) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = in_batches(calibration, 1)

        def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
            batch = next(self.left, None)
            return None if batch is None else {"image": batch}

    with at_level(logging.WARNING, "root"):  # it logs every scale on the root logger
        quant_pre_process(exported, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTIZED,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"CalibMovingAverage": True},
        )


def translations() -> dict[Any, Any]:
    """ONNX translations of detection's custom operators."""
    from onnxscript import FLOAT, INT64, opset18

    from tasks.detection import nms  # registers the operator

    assert nms
    op: Any = opset18  # its type hints do not allow constants

    def nms_mask(boxes: FLOAT, scores: FLOAT, iou: float, threshold: float) -> FLOAT:
        count = op.Shape(scores, start=2, end=3)
        found = op.NonMaxSuppression(
            boxes, scores, count, op.Constant(value_float=iou), op.Constant(value_float=threshold)
        )
        rows: INT64 = op.Gather(found, op.Constant(value_ints=[0, 2]), axis=1)
        zeros = op.Expand(op.Constant(value_float=0.0), op.Shape(boxes, start=0, end=2))
        ones = op.Expand(op.Constant(value_float=1.0), op.Shape(rows, start=0, end=1))
        return op.ScatterND(zeros, rows, ones)

    return {torch.ops.mobilenets.nms_mask.default: nms_mask}
