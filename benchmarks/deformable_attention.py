"""A training step of one encoder layer of DINO 4scale, its deformable attention as one operator.

    python -m benchmarks.deformable_attention            # counts, and seconds on this processor
    python -m benchmarks.deformable_attention --no-time

Operators and bytes are those of a GPU under autocast, counted on fake tensors
(:mod:`.count_operators`). What autograd keeps between forward and backward is counted without the
parameters, every tensor's memory once. Times are seconds of the processor, of both backends in
turns, in float32.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import transnext_ops as ops
from benchmarks.count_operators import OperatorCount
from transnext_models.dense.deformable_attention import cell_centres
from transnext_models.dense.transformer_layers import DeformableEncoderLayer

__all__ = ["count_step", "kept_bytes", "seconds"]

_STRIDES = (8, 16, 32, 64)
_CHANNELS, _HIDDEN, _HEADS, _POINTS = 256, 2048, 8, 4

Step = tuple[DeformableEncoderLayer, Tensor, Tensor, Tensor, list[tuple[int, int]]]


def _step(height: int, width: int, batch: int = 1) -> Step:
    """Return the layer, its tokens, their positions, references, and the levels."""
    shapes = [(-(-height // stride), -(-width // stride)) for stride in _STRIDES]
    cells = sum(rows * columns for rows, columns in shapes)
    layer = DeformableEncoderLayer(_CHANNELS, _HIDDEN, _HEADS, len(shapes), _POINTS)
    x, position = torch.randn(batch, cells, _CHANNELS), torch.randn(batch, cells, _CHANNELS)
    centres = cell_centres(shapes, x)
    reference = centres[None, :, None].expand(batch, -1, len(shapes), -1)
    return layer, x.requires_grad_(), position, reference, shapes


def count_step(
    backend: str, *, height: int = 800, width: int = 1280, dtype: torch.dtype = torch.float16
) -> OperatorCount:
    """Count the operators of a forward and backward pass.

    Parameters
    ----------
    backend : str
        ``torch``, or a kernel backend, whose operators are one each.
    height, width : int
        Of the image.
    dtype : torch.dtype
        Autocast's.
    """
    with (
        ops.use_backend(backend),
        FakeTensorMode(allow_non_fake_inputs=True),
        torch.autocast("cpu", dtype),
    ):
        layer, *inputs = _step(height, width)
        with OperatorCount() as count:
            layer(*inputs).sum().backward()
    return count


def kept_bytes(
    backend: str, *, height: int = 800, width: int = 1280, dtype: torch.dtype = torch.float16
) -> int:
    """Return the bytes that autograd keeps for the attention's backward, without parameters."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, torch.nn.Parameter):
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with (
        ops.use_backend(backend),
        FakeTensorMode(allow_non_fake_inputs=True),
        torch.autocast("cpu", dtype),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        layer, x, position, reference, shapes = _step(height, width)
        out = layer.self_attn(x + position, x, reference, shapes)
        assert out.requires_grad  # what is kept lives until here
    return sum(kept.values())


def seconds(
    backends: Sequence[str], *, height: int = 800, width: int = 1280, runs: int = 5
) -> dict[str, float]:
    """Return the processor's median seconds of a forward and backward pass, by backend."""
    torch.manual_seed(0)
    layer, *inputs = _step(height, width)
    taken: dict[str, list[float]] = {backend: [] for backend in backends}
    for run in range(runs + 1):
        for backend in backends:
            start = time.process_time()
            with ops.use_backend(backend):
                layer(*inputs).sum().backward()
            if run > 0:  # the first is a warm-up
                taken[backend].append(time.process_time() - start)
    return {backend: statistics.median(times) for backend, times in taken.items()}


def main(arguments: list[str] | None = None) -> None:
    """Print counts and times."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--no-time", action="store_true")
    given = parser.parse_args(arguments)
    size = {"height": given.height, "width": given.width}
    for title, backend in (("by layers", "torch"), ("one operator", "reference")):
        count = count_step(backend, **size)
        kept = kept_bytes(backend, **size) / 1e6
        print(
            f"{title}: {count.operators} operators, {count.gigabytes:.2f} GB moved, "
            f"{kept:.0f} MB kept by the attention"
        )
    if not given.no_time:
        for backend, taken in seconds(("torch", "cpp"), **size, runs=given.runs).items():
            print(f"{backend}: {taken:.2f} s of the processor, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
