"""What deformable attention computes between its Linears, in one call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from transnext_ops.dispatch import eager
from transnext_ops.dispatch.custom_operators import PATHS
from transnext_ops.operators.checks import (
    check_activation,
    check_grid,
    check_parameter,
    tensor_checks,
)
from transnext_ops.schema import DEFORMABLE_ATTENTION

_check = tensor_checks(DEFORMABLE_ATTENTION, "value", ["offsets", "logits"])


def deformable_attention(
    value: Tensor,
    offsets: Tensor,
    logits: Tensor,
    reference: Tensor,
    shapes: Sequence[tuple[int, int]],
) -> Tensor:
    """Return each head's values at a query's places, summed by weight, without gradient.

    Source: Zhu et al., "Deformable DETR", ICLR 2021, arXiv 2010.04159, equation 3.

    Parameters
    ----------
    value : Tensor [B, S, h, d]
        The cells of all levels, one level after the other, row by row; on the CPU, any strides.
    offsets : Tensor [B, N, h, samples, 2]
        (x, y) of each sample from the reference, of value's type; of samples each level has as
        many, the first level's first.
    logits : Tensor [B, N, h, samples]
        A head's weights are their softmax; of value's type.
    reference : Tensor [B, N, levels, 2 or 4]
        In units of a level's sides: points (x, y), offsets then counting cells, or boxes
        (cx, cy, w, h), offsets then counting half sides divided by the points of a level. In
        float32, or in float64 with it.
    shapes : sequence of (int, int)
        Rows and columns of each level, which make S cells.

    Returns
    -------
    Tensor [B, N, h * d]
        Of value's type. A value is bilinear between the centres of cells and zero outside.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, dtype, device or shape; the message names it.
    """
    check_activation("value", value, "[B, S, h, d]")
    if value.device.type != "cpu":
        raise ValueError(f"value: got device {value.device}, needs the CPU")
    shapes = [check_grid("shapes", shape) for shape in shapes]
    cells, levels = sum(rows * columns for rows, columns in shapes), len(shapes)
    if value.shape[1] != cells:
        raise ValueError(f"value: got {value.shape[1]} cells, needs {cells} of levels {shapes}")
    batch, _, heads, _ = value.shape
    check_activation("logits", logits, "[B, N, h, samples]")
    queries, samples = logits.shape[1], logits.shape[3]
    offsets, logits = _check(value, offsets, logits, B=batch, N=queries, h=heads, samples=samples)
    if samples % levels:
        raise ValueError(f"logits: got {samples} samples, needs a multiple of {levels} levels")
    numbers = reference.shape[-1] if isinstance(reference, Tensor) and reference.dim() else 0
    sizes = (batch, queries, levels, 4 if numbers == 4 else 2)
    reference = check_parameter(
        "reference", reference, "[B, N, levels, 2 or 4]", sizes, "value", value
    )
    of_levels = torch.tensor(shapes, dtype=torch.int32)
    out = eager.call(
        PATHS["deformable_attention"], value, offsets, logits, reference, of_levels, "cpp"
    )
    return out.flatten(2)
