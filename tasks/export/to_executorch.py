"""Writes ExecuTorch programs lowered to XNNPACK, and runs them with the executorch package. The batch size is fixed."""

import copy
import logging
from typing import Any

import torch

from tasks.export.graph import Graph, Job
from tasks.export.runtimes import ExecuTorchRunner, at_level, in_batches, silenced

KEY = "quantization_annotation"  # torchao's
Runner = ExecuTorchRunner
EXAMPLE = """
def run(pixels: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    try:  # wants Python 3.12, but no torch
        from executorch_numpy_runtime import Runtime

        return list(Runtime.get().load_program(str(FOLDER / SPEC["file"])).load_method("forward")([pixels]))
    except ImportError:  # of the package executorch, which needs torch
        import torch
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(FOLDER / SPEC["file"]).load_method("forward")
        return [tensor.numpy() for tensor in method.execute([torch.from_numpy(pixels)])]
"""


def write(job: Job) -> None:
    """Writes the graph; int8 quantization is static, with per-channel weights."""
    with at_level(logging.WARNING, "root"):
        with silenced():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

        graph = copy.deepcopy(job.graph).to(memory_format=torch.contiguous_format)  # lowering needs contiguous weights
        if len(job.calibration):
            quantize(graph, job)
        with silenced():
            program = torch.export.export(graph, (job.example,))
            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    job.path.write_bytes(lowered.buffer)


def quantize(graph: Graph, job: Job) -> None:
    """Replaces the model's forward, from normalised images to raw outputs, with an int8 version."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import get_symmetric_quantization_config
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    model = graph.model
    batches = [torch.from_numpy(x) for x in in_batches(job.calibration, len(job.example))]
    network: Any = torch.export.export(model, (graph.normalised(batches[0]),)).module()
    unshare_biases(network)
    network = prepare_pt2e(network, quantizer(get_symmetric_quantization_config(is_per_channel=True)))
    for batch in batches:
        network(graph.normalised(batch))
    network = convert_pt2e(network)
    model.add_module("int8", network)
    model.__dict__["forward"] = lambda images: network(images)


def unshare_biases(network: torch.fx.GraphModule) -> None:
    """Gives each call of a shared convolution its own bias, because a quantized bias's scale depends on the input's."""
    seen: set[str] = set()
    for i, node in enumerate(list(network.graph.nodes)):
        bias = node.args[2] if node.target is torch.ops.aten.conv2d.default and len(node.args) > 2 else None
        if bias is not None and str(bias.target) in seen:
            name = f"bias_{i}"
            network.register_parameter(name, torch.nn.Parameter(network.get_parameter(bias.target).detach().clone()))
            with network.graph.inserting_before(node):
                node.update_arg(2, network.graph.get_attr(name))
        elif bias is not None:
            seen.add(str(bias.target))
    network.recompile()


def quantizer(config: Any) -> Any:
    """XNNPACK's quantizer, which here also treats a convolution and its ReLU6 as one. Otherwise it would quantize the
    convolution's output in its range before the ReLU6, which after folding is often a hundred times as wide.
    """
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation

    aten = torch.ops.aten

    class Quantizer(XNNPACKQuantizer):
        def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            for node in model.graph.nodes:
                if node.target in (aten.hardtanh.default, aten.hardtanh_.default, aten.relu6.default):
                    conv = node.args[0]
                    if conv.target is aten.conv2d.default and len(conv.users) == 1:
                        inputs = {conv.args[0]: config.input_activation, conv.args[1]: config.weight}
                        conv.meta[KEY] = QuantizationAnnotation(input_qspec_map=inputs, _annotated=True)
                        output = {"output_qspec": config.output_activation}
                        node.meta[KEY] = QuantizationAnnotation(**output, _annotated=True)
            return super().annotate(model)

    return Quantizer().set_global(config)
