"""What runs an exported file on this machine: to check it, and to time it."""

from __future__ import annotations

import functools
import io
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from .graphs import IMAGES, quiet
from .subject import as_tuple

__all__ = ["OPEN_VINO", "Runner", "median_seconds", "runners_of"]

Runner = Callable[[Tensor], tuple[Tensor, ...]]

OPEN_VINO = "openvino"
"""Which may be unable to run a file: that is shown, and no reason to refuse it."""

_LONGEST = 3.0  # seconds of timing
_MOST_RUNS = 15


def runners_of(content: bytes, file_format: str) -> Iterator[tuple[str, Runner]]:
    """Yield the name of each library here that runs a file, and how."""
    if file_format == "onnx":
        if find_spec("onnxruntime"):
            yield "onnxruntime", onnx_runtime(content)
        if find_spec("openvino"):
            yield OPEN_VINO, _open_vino(content)
    elif file_format == "pt2":
        with quiet():
            program = torch.export.load(io.BytesIO(content))
        yield "torch.export", program.module()
    else:
        yield "torch.jit", torch.jit.load(io.BytesIO(content))


def onnx_runtime(content: bytes) -> Runner:
    """Return how ONNX Runtime runs a file on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> tuple[Tensor, ...]:
        outputs = session.run(None, {IMAGES: images.numpy()})
        return tuple(torch.from_numpy(output) for output in outputs)

    return run


def _open_vino(content: bytes) -> Runner:
    @functools.cache
    def compiled() -> Any:
        import openvino

        core = openvino.Core()
        # Its CPU computes in bfloat16 where that is faster, unless it is asked not to.
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        return core.compile_model(core.read_model(io.BytesIO(content)), "CPU", settings)

    def run(images: Tensor) -> tuple[Tensor, ...]:
        outputs = compiled()([images.numpy()])
        return tuple(torch.from_numpy(outputs[i].copy()) for i in range(len(outputs)))

    return run


@torch.inference_mode()
def median_seconds(runs: Sequence[Callable[[Tensor], Any]], images: Tensor) -> list[float]:
    """Return the median time of each of several ways to run `images`, taken in turns."""
    seconds: list[list[float]] = [[] for _ in runs]
    started = time.perf_counter()
    for turn in range(_MOST_RUNS + 1):
        for run, times in zip(runs, seconds, strict=True):
            before = time.perf_counter()
            as_tuple(run(images))
            if turn:  # the first one warms up
                times.append(time.perf_counter() - before)
        if turn and time.perf_counter() - started > _LONGEST:
            break
    return [statistics.median(times) for times in seconds]
