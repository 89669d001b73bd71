"""The least an operator must do: its arithmetic, and the bytes of its inputs and outputs once."""

from __future__ import annotations

import torch

from benchmarks.roofline import rates
from benchmarks.runner.step import Step
from benchmarks.shapes.cases import Case
from benchmarks.shapes.sizes import BIAS_HIDDEN, HEAD_DIM, WINDOW_SIZE, shapes

EXP_FLOPS = 20  # also of erf
_BYTES = {"float32": 4, "bfloat16": 2}


def operator_work(case: Case) -> tuple[float, float]:
    """Return flops and bytes of an operator's case.

    A backward pass reads the inputs and the output's gradient and writes every input's gradient.
    """
    s = shapes(case)
    cells, d, queries = WINDOW_SIZE**2, HEAD_DIM, s.batch * s.length * s.heads
    tokens, pooled = s.batch * s.length * s.width, s.batch * s.pool_length * s.width
    if case.subject == "aggregated_attention":
        forward, backward = (queries * flops for flops in _attention_flops(cells, s.pool_length))
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


def _attention_flops(cells: int, pooled: int) -> tuple[int, int]:
    """Return the flops of aggregated attention per query and head, forward and backward.

    Two for a multiply-add, one for any other operation. The backward recomputes the weights:
    nothing is kept per query and key.
    """
    d, keys = HEAD_DIM, cells + pooled
    # Norms of query and key; the query scaled and embedded, the logits of the cells scaled.
    normalised = 2 * d + 2 * d + 3 * d + cells
    logits = normalised + 2 * d * keys + keys  # and biases
    positional = 2 * d * cells + 2 * cells  # scaled by the query's norm, biased
    forward = (
        logits
        + (3 + EXP_FLOPS) * keys  # maximum, difference, sum
        + positional
        + 2 * cells + d  # divided by the sum: weights of cells, pooled output
        + 2 * d * keys  # values
    )  # fmt: skip
    backward = (
        logits
        + (1 + EXP_FLOPS) * keys
        + positional + cells
        + 2 * d * keys  # gradients of the weights
        + 2 * d + 2 * cells  # their weighted mean, from the output
        + 2 * keys  # gradients of the logits
        + 3 * 2 * d * keys + 2 * d * cells  # of queries, keys and values; of queries by the tokens
        + 2 * d * cells + cells  # of the tokens, by the scaled query
        + keys + cells  # of the biases
        + d + 2 * d + 4 * d  # of the scaled query, the embedding, the scale
        + 2 * 5 * d  # through the normalisations
    )  # fmt: skip
    return forward, backward


def bound_step(case: Case) -> Step:
    """Return the step whose time is the roofline bound of an operator.

    A fraction of a large GEMM with the operator's flops, or of a copy with its bytes, whichever
    takes longer. Interleaved with the other candidates, it sees the processor as they do.
    """
    flops, moved = operator_work(case)
    (gemm, gemm_flops), (copy, copy_bytes) = rates.best_gemm(), rates.copy(moved)
    computing = flops / gemm_flops, gemm
    moving = moved / copy_bytes, copy
    with torch.no_grad():
        fraction, run = max(
            computing, moving, key=lambda way: way[0] * rates.median_seconds(way[1])
        )

    def step() -> None:
        with torch.no_grad():
            run()

    return Step(step, note="arithmetic" if run is gemm else "bytes", fraction=fraction)


def _distances(size: int, pooled: int) -> int:
    """Distinct distances of an axis's queries to its pooled cells, the ratio being whole."""
    step = size // pooled
    return size + step * (pooled - 1)
