"""One small call of every ``torch.ops.transnext`` operator, its arguments by position."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from operator_calls import (
    DEFORMABLE_SHAPES,
    DIM,
    GRID,
    HEADS,
    HIDDEN,
    LENGTH,
    POOL,
    POOL_LENGTH,
    WINDOW,
    attention_call,
    operator_calls,
)
from strategies import Numbers
from transnext_ops import fused_blocks


def custom_op_calls(backend: str) -> dict[str, tuple[Any, ...]]:
    """Return positional arguments of every torch.ops.transnext operator, backwards included."""
    tensors, _ = attention_call()
    bias = tensors.pop("pool_bias")
    order = (
        "q", "k", "v", "k_pool", "v_pool", "scale", "query_embedding", "local_bias",
    )  # fmt: skip
    attention = (
        *(tensors[name] for name in order), bias.table, bias.row_map, bias.col_map,
        bias.col_weights, tensors["tokens"], tensors["token_bias"],
    )  # fmt: skip
    sizes_tuple = (GRID, POOL, WINDOW)
    out, log_sum_exp = torch.ops.transnext.aggregated_attention(*attention, *sizes_tuple, backend)
    calls = operator_calls()
    qk, av = calls["window_qk"][1], calls["window_av"][1]
    glu, pool, mlp = calls["conv_glu"][1], calls["gelu_pool"][1], calls["position_bias"][1]
    norm = calls["add_layer_norm"][1]  # x, branch, weight, bias
    deformable = calls["deformable_attention"][1]
    sides = [side for shape in DEFORMABLE_SHAPES for side in shape]
    x_bias = torch.rand(2 * HIDDEN)
    coords = (torch.linspace(-1, 1, 5), torch.linspace(-1, 1, 7))
    attention_backward = (
        torch.randn_like(out), out, log_sum_exp, *attention, *sizes_tuple,
        [True, False] * 5 + [True],
    )  # fmt: skip
    return {
        "aggregated_attention": (*attention, *sizes_tuple, backend),
        "aggregated_attention_backward": (*attention_backward, backend),
        "aggregated_attention_backward_into": (
            *attention_backward, *written_into(tensors["q"], tensors["v_pool"]), backend,
        ),
        "window_qk": (*qk, GRID, WINDOW, backend),
        "window_qk_backward": (torch.randn(2, HEADS, LENGTH, 9), *qk[:2], GRID, WINDOW,
                               [True, True, True], backend),
        "window_av": (*av, GRID, WINDOW, backend),
        "window_av_backward": (torch.randn_like(av[1]), *av, GRID, WINDOW, [False, True], backend),
        "position_bias_table": (*coords, *mlp, backend),
        "position_bias_table_backward": (torch.randn(HEADS, 5, 7), *coords, *mlp,
                                         [True, True, False, True], backend),
        "conv_glu": (*glu, x_bias, GRID, backend),
        "conv_glu_backward": (
            torch.randn(2, LENGTH, HIDDEN), *glu, x_bias, GRID, [True] * 4, backend,
        ),
        "add_layer_norm": (
            norm[1], norm[0], *norm[2:], torch.rand(2), torch.rand(6), 1e-6, backend,
        ),
        "add_layer_norm_backward": (
            torch.randn_like(norm[1]), None, *norm[:1], norm[2], None, 1e-6,
            [True, True, False, True, True], backend,
        ),
        "deformable_attention": (*deformable, sides, backend),
        "deformable_attention_backward": (
            torch.randn(2, 5, HEADS, DIM), *deformable, sides, [True, False, True, True], backend,
        ),
        "gelu_pool": (*pool, GRID, POOL, backend),
        "gelu_pool_backward": (torch.randn(2, POOL_LENGTH, 6), *pool, GRID, POOL, backend),
        "gelu_pool_backward_into": (
            torch.randn(2, POOL_LENGTH, 6), *pool, GRID, POOL, [True],
            [torch.empty(2, LENGTH, 3, 6)[:, :, 1]], backend,
        ),
    }  # fmt: skip


def written_into(q: Tensor, v_pool: Tensor) -> tuple[list[bool], list[Tensor]]:
    """Return the places of the gradients of k and v_pool, which the call's mask leaves out."""
    placed = [i in (1, 3) for i in range(11)]
    rooms = [torch.empty(*like.shape[:2], 2, *like.shape[2:]) for like in (q, v_pool)]
    return placed, [room[:, :, 1] for room in rooms]


def branch_op_calls() -> dict[str, tuple[Any, ...]]:
    """Return positional arguments of the operators of whole branches, which run on ``cpp``."""
    numbers = Numbers(7)
    width = 8 * HEADS

    def parameter(*shape: int) -> Tensor:
        return numbers.parameter(*shape, dtype=torch.float32)

    def packed(columns: int, depth: int) -> Tensor:
        return fused_blocks.pack_weight(parameter(columns, depth), torch.float32).data

    def norm(channels: int) -> tuple[Tensor, Tensor]:
        return parameter(channels), parameter(channels)

    tensors, _ = attention_call()
    bias = tensors["pool_bias"]
    x = numbers.activation(2, LENGTH, width, dtype=torch.float32)
    convolution = fused_blocks.pack_convolution(
        parameter(width, 3, 3, 3), torch.float32, channels_last=False
    )
    return {
        "attention_residual": (
            x, *norm(width), packed(4 * width, width), parameter(4 * width), *norm(width),
            packed(2 * width, width), tensors["scale"], tensors["query_embedding"],
            tensors["local_bias"], bias.table, bias.row_map, bias.col_map, bias.col_weights,
            tensors["tokens"], tensors["token_bias"], packed(width, width), parameter(width),
            GRID, POOL, WINDOW, HEADS, 1e-6, 1e-6, torch.float32, "cpp",
        ),
        "conv_glu_residual": (
            x, *norm(width), packed(HIDDEN, width), packed(HIDDEN, width), parameter(2 * HIDDEN),
            parameter(HIDDEN, 1, 3, 3), parameter(HIDDEN), packed(width, HIDDEN), parameter(width),
            GRID, 1e-6, "cpp",
        ),
        "patch_embed": (
            numbers.activation(2, 3, 9, 7, dtype=torch.float32), convolution.data,
            parameter(width), *norm(width), GRID, width, 3, 2, False, 1e-6, "cpp",
        ),
        "token_norm": (x, *norm(width), 1e-6, "cpp"),
        "pooled_linear": (x, parameter(HIDDEN, width), parameter(HIDDEN), "cpp"),
    }  # fmt: skip
