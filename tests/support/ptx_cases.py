"""Small calls that between them run every instance of every CUDA kernel, by operator.

One case of an operator costs its emulation for each storage type and compiler, so these are few:
the edges that a tile, a halo, a vector access or a reduction can get wrong. The many cases are
drawn for the emulation of the same source.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from agreement import (
    check_attention,
    check_conv_glu,
    check_gelu_pool,
    check_position_bias,
    check_window_av,
    check_window_qk,
    edge,
)
from deformable_agreement import check_deformable_attention
from deformable_cases import ordinary
from norm_agreement import check_add_layer_norm
from strategies import PositionBiasCase, TokenCase
from tf32_agreement import check_attention_on_tf32

Check = Callable[[str, torch.dtype], None]  # of a backend, in a storage type


def on(check: Callable[..., None], case: Any) -> Check:
    return lambda backend, dtype: check(replace(case, dtype=dtype), backend)


def tokens(**sizes: Any) -> TokenCase:
    return TokenCase(dtype=torch.float32, seed=1, **sizes)


# Overlapping bins and a last tile of one channel; one token; a line; bins of one token; a bin of
# more cells than threads.
_TOKENS = (
    tokens(batch=2, grid=(7, 5), pool_grid=(3, 2), channels=33, layout="sliced"),
    tokens(batch=1, grid=(1, 1), channels=1, layout="contiguous", with_bias=False),
    tokens(batch=1, grid=(1, 9), pool_grid=(1, 4), channels=8, layout="packed"),
    tokens(batch=3, grid=(4, 4), pool_grid=(4, 4), channels=24, layout="contiguous"),
    tokens(batch=1, grid=(8, 12), channels=40, layout="contiguous"),
    tokens(batch=0, grid=(3, 3), channels=8, layout="contiguous"),
)
# Samples of several scales; more channels than a warp takes at once, more tokens than a block.
_SCALED = tokens(batch=2, heads=2, grid=(3, 5), channels=200, layout="packed")
# An even window, one larger than the grid, the published one on a packed layout.
_WINDOWS = (
    tokens(batch=2, heads=2, grid=(7, 5), channels=24, layout="packed"),
    tokens(batch=1, heads=1, grid=(1, 3), window_size=5, channels=8, layout="contiguous"),
    tokens(batch=1, heads=3, grid=(6, 4), window_size=4, channels=17, layout="sliced"),
    tokens(batch=1, heads=1, grid=(1, 1), channels=64, layout="contiguous", with_bias=False),
)
# More samples than lanes, from boxes, and more heads than warps; more channels than a warp takes at
# once; one of everything; no queries.
_DEFORMABLE = (
    ordinary(queries=3, points=11, numbers=4, layout="sliced", heads=9, channels=24),
    ordinary(queries=2, heads=2, channels=100, shapes=((3, 4), (2, 2)), layout="packed"),
    ordinary(batch=1, queries=1, heads=1, channels=1, points=1, shapes=((1, 1),)),
    ordinary(queries=0, heads=1),
)
_ATTENTION = (
    edge(),
    edge(bias="interpolated", layout="contiguous"),
    edge(bias="dense", batch=1, grid=(5, 9), pool_grid=(5, 9)),
    edge(grid=(1, 1), pool_grid=(1, 1), window_size=5, bias="none", optional=(False,) * 4),
    edge(grid=(1, 9), pool_grid=(1, 9), window_size=4, layout="sliced"),
    edge(window_size=0, pool_grid=(7, 6)),
    edge(window_size=0, grid=(8, 15), pool_grid=(8, 15), batch=1, heads=1),
    edge(grid=(8, 15), batch=1, heads=1),
    edge(head_dim=8, heads=1, batch=1),
    edge(head_dim=32, heads=1, batch=1, grid=(4, 4), pool_grid=(2, 2)),
    edge(window_size=0, head_dim=32, heads=1, batch=1, grid=(4, 4), pool_grid=(4, 4)),
    edge(window_size=0, head_dim=48, heads=1, batch=1, grid=(4, 4), pool_grid=(4, 4)),
    edge(window_size=0, head_dim=128, heads=1, batch=1, grid=(3, 4), pool_grid=(3, 4)),
    edge(grid=(9, 60), pool_grid=(3, 4), batch=1, heads=1),
    edge(grid=(22, 30), pool_grid=(11, 30), batch=1, heads=1),
    edge(grid=(9, 1), pool_grid=(4, 1), batch=0),
)
# Changes of the ordinary case, too slow to emulate for every compiler.
EDGES_OF_ATTENTION: tuple[dict[str, Any], ...] = (
    {"grid": (1, 1), "pool_grid": (1, 1), "window_size": 5},
    {"grid": (1, 9), "pool_grid": (1, 9), "window_size": 4},
    {"grid": (9, 1), "pool_grid": (4, 1), "batch": 0},
    {"magnitude": "extreme logits"},
    {"magnitude": "zero vectors", "layout": "sliced"},
    {"grid": (19, 35), "pool_grid": (9, 11), "bias": "interpolated"},  # several of any tile
)
# Other head dims, whose gradient of the table is summed in order.
_ORDERED = (
    edge(head_dim=32, batch=1, grid=(4, 4)),
    edge(head_dim=48, batch=1, grid=(4, 4)),
    edge(head_dim=128, batch=1, grid=(3, 4)),
)


# QKᵀ and PV over the pooled keys on TF32 tensor cores, forward only: head dims up to 24.
_ON_TF32 = (
    edge(head_dim=9, heads=1),
    edge(bias="dense", batch=1, grid=(5, 9), pool_grid=(5, 9), layout="contiguous"),
    edge(grid=(1, 9), pool_grid=(1, 9), window_size=4, layout="sliced"),
    edge(window_size=0, pool_grid=(7, 6)),
    edge(window_size=0, grid=(8, 15), pool_grid=(8, 15), batch=1, heads=1),
    edge(grid=(9, 60), pool_grid=(3, 20), batch=1, heads=1),
    edge(grid=(22, 30), pool_grid=(11, 30), batch=1, heads=1),
)


def float32_only(check: Check) -> Check:
    return lambda backend, dtype: check(backend, dtype) if dtype == torch.float32 else None


def ordered(check: Check) -> Check:
    """Ask for deterministic algorithms."""

    def run(backend: str, dtype: torch.dtype) -> None:
        torch.use_deterministic_algorithms(True)
        try:
            check(backend, dtype)
        finally:
            torch.use_deterministic_algorithms(False)

    return run


def _position_bias(train: tuple | None, hidden: int) -> Check:
    # Parameters are float32 whatever the activations are.
    case = PositionBiasCase((6, 5), (0.5, 0.5), (7, 7), train, heads=2, hidden=hidden, seed=0)
    return lambda backend, dtype: check_position_bias(case, backend)


CASES: dict[str, dict[str, Check]] = {
    "aggregated_attention": {
        **{str(case): on(check_attention, case) for case in _ATTENTION},
        **{f"ordered {case}": ordered(on(check_attention, case)) for case in _ORDERED},
        **{f"TF32 {case}": float32_only(on(check_attention_on_tf32, case)) for case in _ON_TF32},
    },
    "window_qk": {str(case): on(check_window_qk, case) for case in _WINDOWS},
    "window_av": {str(case): on(check_window_av, case) for case in _WINDOWS},
    "position_bias_table": {
        "extrapolated": _position_bias(None, 16),
        "interpolated": _position_bias(((4, 4), (0.4, 0.4)), 37),
    },
    "conv_glu": {str(case): on(check_conv_glu, case) for case in _TOKENS},
    "gelu_pool": {str(case): on(check_gelu_pool, case) for case in _TOKENS},
    "deformable_attention": {
        **{str(case): on(check_deformable_attention, case) for case in _DEFORMABLE},
        "ordered": ordered(on(check_deformable_attention, _DEFORMABLE[0])),
    },
    "add_layer_norm": {
        str(case): on(check_add_layer_norm, case) for case in (_TOKENS[0], _TOKENS[-1], _SCALED)
    },
}
