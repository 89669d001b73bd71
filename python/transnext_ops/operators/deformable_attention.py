"""Multi-scale deformable attention between its Linears: queries read a few places of every map."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor

from transnext_ops.cupy_arrays import accepts_cupy
from transnext_ops.dispatch.autocast import autocast_activations
from transnext_ops.dispatch.run import run
from transnext_ops.operators.checks import (
    check_activation,
    check_grid,
    check_parameter,
    tensor_checks,
)
from transnext_ops.schema import DEFORMABLE_ATTENTION

MOST_LEVELS = 64  # beyond, the number is a mistake rather than a wish

_check = tensor_checks(DEFORMABLE_ATTENTION, "value", ["offsets", "logits"])


@accepts_cupy
def deformable_attention(
    value: Tensor,
    offsets: Tensor,
    logits: Tensor,
    reference: Tensor,
    *,
    shapes: Sequence[tuple[int, int]],
    backend: str | None = None,
) -> Tensor:
    """Return each head's values at a query's places, summed by weight.

    Head h of query n gets the sum of ``softmax(logits[n, h]) · value_h(place[n, h])`` over its
    samples, the same number on each level. A value is bilinear between the centres of cells and
    zero outside its map, as ``grid_sample`` with ``align_corners=False`` has it. The backward needs
    the inputs alone: no sampled value is kept.

    Source: Zhu et al., "Deformable DETR", ICLR 2021, arXiv 2010.04159, equations 2 and 3.

    Parameters
    ----------
    value : Tensor [B, S, h, d]
        The cells of all levels, one level after the other, row by row; any strides.
    offsets : Tensor [B, N, h, samples, 2]
        (x, y) of each sample from the reference; of samples each level has as many, the first
        level's first. There may be no queries, N = 0.
    logits : Tensor [B, N, h, samples]
        A head's weights are their softmax.
    reference : Tensor [B, N, levels, 2 or 4]
        In units of a level's sides: points (x, y), offsets then counting cells, or boxes
        (cx, cy, w, h), offsets then counting half sides divided by the points of a level. Used in
        float32, float64 beside float64: half precision has too few digits for a place.
    shapes : sequence of (int, int)
        Rows and columns of each level, which make S cells; at most 64 levels.
    backend : str, optional
        Overrides the backend in force for this call.

    Returns
    -------
    Tensor [B, N, h, d]
        In value's dtype (autocast's, where that is active).

    Notes
    -----
    Many queries add to the gradient of a cell. On a CPU the kernels do so in one order, on a GPU
    atomically: results then differ in the last bits from run to run, unless
    ``torch.use_deterministic_algorithms(True)`` asks for the slower sums that do not. The backend
    ``torch`` is made of ``grid_sample``, which PyTorch differentiates backwards and once.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, dtype, device or shape; the message names it.
    BackendError
        The backend asked for by name cannot run the call.
    """
    value, offsets, logits = autocast_activations(value, offsets, logits)
    check_activation("value", value, "[B, S, h, d]")
    levels = [check_grid("shapes", shape) for shape in shapes]
    if not 0 < len(levels) <= MOST_LEVELS:
        raise ValueError(f"shapes: got {len(levels)} levels, needs 1 to {MOST_LEVELS}")
    batch, cells, heads, _ = value.shape
    needed = sum(rows * columns for rows, columns in levels)
    if cells != needed:
        raise ValueError(f"value: got {cells} cells, needs {needed} of levels {levels}")
    if not isinstance(logits, Tensor) or logits.dim() != 4:
        check_activation("logits", logits, "[B, N, h, samples]")
    queries, samples = logits.shape[1], logits.shape[3]
    if samples == 0 or samples % len(levels):
        raise ValueError(
            f"logits: got {samples} samples, needs the same number on each of {len(levels)} levels"
        )
    offsets, logits = _check(value, offsets, logits, B=batch, N=queries, h=heads, samples=samples)
    numbers = reference.shape[-1] if isinstance(reference, Tensor) and reference.dim() else 0
    sizes = (batch, queries, len(levels), 4 if numbers == 4 else 2)
    reference = check_parameter(
        "reference", reference, "[B, N, levels, 2 or 4]", sizes, "value", value
    )
    sides = tuple(itertools.chain.from_iterable(levels))
    return run("deformable_attention", value, (value, offsets, logits, reference, sides), backend)
