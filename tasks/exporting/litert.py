"""LiteRT (TensorFlow Lite) files by litert-torch, and their interpreter with XNNPACK. The batch is fixed."""

SUFFIX, PACKAGES, WHOLE, FIXED_BATCH = ".tflite", ("litert_torch", "ai_edge_litert", "ai_edge_quantizer"), False, True
RUNTIME = "ai-edge-litert"
EXAMPLE = """
def run(pixels):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(FOLDER / SPEC["file"]))
    runner = interpreter.get_signature_runner()
    answers = runner(args_0=pixels)
    return [answers[f"output_{i}"] for i in range(len(answers))]
"""
