"""The least an operator must do: its arithmetic, and the bytes of its inputs and outputs once."""

from __future__ import annotations

import torch

import rates
from cases import Case
from operator_steps import BIAS_HIDDEN, HEAD_DIM, WINDOW_SIZE, shapes
from steps import Step

EXP_FLOPS = 20  # also of erf
_BYTES = {"float32": 4, "bfloat16": 2}


def operator_work(case: Case) -> tuple[float, float]:
    """Return flops and bytes of an operator's case.

    A backward pass computes the logits again and two products for each of the forward's; it reads
    the inputs and the output's gradient and writes every input's gradient.
    """
    s = shapes(case)
    cells, d, queries = WINDOW_SIZE**2, HEAD_DIM, s.batch * s.length * s.heads
    tokens, pooled = s.batch * s.length * s.width, s.batch * s.pool_length * s.width
    if case.subject == "aggregated_attention":
        logits = 2 * d * (cells + s.pool_length)
        exp = EXP_FLOPS * (cells + s.pool_length)
        normalise = 10 * d  # query and key: squares, sums, scaling
        forward = queries * (2 * logits + 2 * d * cells + exp + normalise)
        backward = queries * (5 * logits + 4 * d * cells + exp + 2 * normalise)
        read, written = 3 * tokens + 2 * pooled, tokens
    elif case.subject == "conv_glu":
        outputs = s.batch * s.length * s.hidden
        forward = outputs * (2 * cells + EXP_FLOPS + 2)
        backward = outputs * (6 * cells + 2 * EXP_FLOPS + 6)
        read, written = 2 * outputs, outputs
    elif case.subject == "gelu_pool":
        forward, backward = tokens * (EXP_FLOPS + 1), tokens * (2 * EXP_FLOPS + 4)
        read, written = tokens, pooled
    elif case.subject == "position_bias":
        rows, columns = (_distances(*axes) for axes in zip(s.grid, s.pool_grid, strict=True))
        table = rows * columns
        # Row and column parts of the first layer are sums of two vectors made once per axis.
        forward = table * BIAS_HIDDEN * (2 + 2 * s.heads)
        backward = table * BIAS_HIDDEN * (6 + 4 * s.heads)
        read, written = BIAS_HIDDEN * (s.heads + 3), table * s.heads
    else:  # window_qk, window_av
        forward, backward = queries * 2 * d * cells, queries * 4 * d * cells
        attn = queries * cells
        read, written = (
            (2 * tokens, attn) if case.subject == "window_qk" else (tokens + attn, tokens)
        )
    moved = {
        "forward": read + written,
        "backward": 2 * read + written,
        "both": 3 * read + 2 * written,
    }[case.direction]
    flops = {"forward": forward, "backward": backward, "both": forward + backward}[case.direction]
    return float(flops), float(moved * _BYTES[case.dtype])


def floor_step(case: Case) -> Step:
    """Return the step whose time is the one below which an operator cannot be.

    A share of a large product with the operator's flops, or of a copy with its bytes, whichever
    takes longer. Run in turns with the other candidates, it sees the processor as they do.
    """
    flops, moved = operator_work(case)
    (product, product_flops), (copy, copy_bytes) = rates.best_product(), rates.copy(moved)
    computing = flops / product_flops, product
    moving = moved / copy_bytes, copy
    with torch.no_grad():
        share, run = max(computing, moving, key=lambda way: way[0] * rates.median_seconds(way[1]))

    def step() -> None:
        with torch.no_grad():
            run()

    return Step(step, note="arithmetic" if run is product else "bytes", share=share)


def _distances(size: int, pooled: int) -> int:
    """Distinct distances of an axis's queries to its pooled cells, the ratio being whole."""
    step = size // pooled
    return size + step * (pooled - 1)
