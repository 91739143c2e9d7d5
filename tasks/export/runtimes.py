"""Runs exported files in their own runtimes. Only ExecuTorch's needs torch."""

import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def in_batches(images: npt.NDArray[Any], batch: int) -> Iterator[npt.NDArray[Any]]:
    """`images` in batches of one size, the last padded with copies of its last image."""
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        yield np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])


SILENCING = threading.RLock()  # file descriptors are the process's: two threads could restore each other's log


@contextmanager
def silenced() -> Iterator[None]:
    """Hides what native libraries print, unless there is an error; in one thread at a time."""
    with SILENCING, tempfile.TemporaryFile() as log:
        kept = {number: os.dup(number) for number in (1, 2)}
        try:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            for number in kept:
                os.dup2(log.fileno(), number)
            yield
        except BaseException:
            log.seek(0)
            os.write(kept[2], log.read())
            raise
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            for number, copy in kept.items():
                os.dup2(copy, number)
                os.close(copy)


@contextmanager
def at_level(level: int, *names: str) -> Iterator[None]:
    """In this context, the loggers of these names log from `level` on; "root" is the root logger."""
    before = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(level)
        yield
    finally:
        for name, own in before.items():
            logging.getLogger(name).setLevel(own)


class OnnxRunner:
    """An ONNX file, run on inputs of any batch size."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (self.input,) = self.session.get_inputs()

    def __call__(self, images: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        return [np.asarray(x) for x in self.session.run(None, {self.input.name: images})]


class LiteRTRunner:
    """A LiteRT file, run on inputs of any batch size, in batches of its fixed size."""

    def __init__(self, path: Path, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.run = Interpreter(str(path), num_threads=threads).get_signature_runner()
        (details,) = self.run.get_input_details().values()
        self.batch = int(details["shape"][0])
        with silenced():  # XNNPACK prints a message in the first run
            self.run(args_0=np.zeros(details["shape"], details["dtype"]))

    def __call__(self, images: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        outputs = []
        for part in in_batches(images, self.batch):
            found = self.run(args_0=part)
            outputs.append([found[f"output_{i}"] for i in range(len(found))])
        return [np.concatenate(rows)[: len(images)] for rows in zip(*outputs, strict=True)]


class ExecuTorchRunner:
    """An ExecuTorch program, run on inputs of any batch size, in batches of its fixed size."""

    def __init__(self, path: Path, threads: int) -> None:
        from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
        from executorch.runtime import Runtime

        _unsafe_reset_threadpool(threads)
        self.program = Runtime.get().load_program(path)  # which must outlive the method
        self.method = self.program.load_method("forward")
        assert self.method
        self.batch = self.method.metadata.input_tensor_meta(0).sizes()[0]

    def __call__(self, images: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        import torch

        parts = in_batches(images, self.batch)
        outputs = [[t.numpy() for t in self.method.execute([torch.from_numpy(part)])] for part in parts]
        return [np.concatenate(rows)[: len(images)] for rows in zip(*outputs, strict=True)]


RUNNERS: dict[str, Any] = {"onnx": OnnxRunner, "litert": LiteRTRunner, "executorch": ExecuTorchRunner}
