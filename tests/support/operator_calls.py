"""One small call of every public operator, for tests that go over all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import transnext_ops as ops
from strategies import AttentionCase, Numbers

GRID, POOL, WINDOW, HEADS, DIM, HIDDEN = (5, 4), (2, 2), 3, 2, 8, 6
LENGTH, POOL_LENGTH = 20, 4
DEFORMABLE_SHAPES, DEFORMABLE_CELLS = ((3, 5), (2, 2)), 19


def attention_call(dtype: torch.dtype = torch.float32, bias: str = "extrapolated"):
    case = AttentionCase(
        batch=2, grid=GRID, heads=HEADS, head_dim=DIM, pool_grid=POOL, window_size=WINDOW,
        dtype=dtype, layout="packed", magnitude="ordinary", bias=bias, optional=(True,) * 4, seed=3,
    )  # fmt: skip
    tensors = case.tensors()
    return tensors, {"grid": GRID, "pool_grid": POOL, "window_size": WINDOW}


def normed_and_total(*tensors: Tensor, **keywords: Any) -> Tensor:
    """Return both results of add_layer_norm in one tensor, the norm first."""
    return torch.cat(ops.add_layer_norm(*tensors, **keywords)[::-1], -1)


def operator_calls(dtype: torch.dtype = torch.float32) -> dict[str, tuple[Any, tuple, dict]]:
    """Return, per public operator: the function, its positional tensors, its other keywords."""
    numbers = Numbers(5)

    def act(*shape: int) -> Tensor:
        return numbers.activation(*shape, dtype=dtype)

    def parameter(*shape: int) -> Tensor:
        return numbers.parameter(*shape, dtype=dtype)

    tensors, sizes = attention_call(dtype)
    positional = tuple(tensors.pop(name) for name in ("q", "k", "v", "k_pool", "v_pool"))
    mlp = (parameter(12, 2), parameter(12), parameter(HEADS, 12), parameter(HEADS))
    head_major = (2, HEADS, LENGTH)
    window = {"grid": GRID, "window_size": WINDOW}
    return {
        "aggregated_attention": (ops.aggregated_attention, positional, {**tensors, **sizes}),
        "global_attention": (
            ops.global_attention,
            positional[:3],
            {"grid": GRID, "scale": tensors["scale"], "bias": parameter(HEADS, LENGTH, LENGTH)},
        ),
        "window_qk": (
            ops.window_qk,
            (act(*head_major, DIM), act(*head_major, DIM), parameter(HEADS, 9)),
            window,
        ),
        "window_av": (ops.window_av, (act(*head_major, 9), act(*head_major, DIM)), window),
        "conv_glu": (
            ops.conv_glu,
            (act(2, LENGTH, 2 * HIDDEN), parameter(HIDDEN, 1, 3, 3), parameter(HIDDEN)),
            {"grid": GRID},
        ),
        "gelu_pool": (ops.gelu_pool, (act(2, LENGTH, 6),), {"grid": GRID, "pool_grid": POOL}),
        "add_layer_norm": (
            normed_and_total,
            (parameter(2, LENGTH, 6), act(2, LENGTH, 6), parameter(6), parameter(6)),
            {},
        ),
        "deformable_attention": (
            ops.deformable_attention,
            (
                act(2, DEFORMABLE_CELLS, HEADS, DIM), act(2, 5, HEADS, 4, 2), act(2, 5, HEADS, 4),
                parameter(2, 5, 2, 4).sigmoid(),
            ),
            {"shapes": DEFORMABLE_SHAPES},
        ),
        "position_bias": (
            # Dense, since a graph of open sizes may have a larger table with other maps.
            lambda *parameters, **keywords: ops.position_bias(*parameters, **keywords).dense(),
            mlp,
            {
                "grid": GRID, "pool_grid": POOL, "pretrain_grid": (7, 7),
                "train_grid": (4, 4), "train_pool_grid": (2, 2),
            },
        ),
    }  # fmt: skip
