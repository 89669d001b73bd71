"""The operators on their own, at the shapes of TransNeXt-Tiny's stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

import transnext_ops as ops
from benchmarks.published import attention, conv_glu, window
from benchmarks.published.position_bias import coordinates, gather_bias
from benchmarks.runner.step import Step, autocast
from benchmarks.shapes.cases import Candidate, Case
from benchmarks.shapes.sizes import BIAS_HIDDEN, HEAD_DIM, WINDOW_SIZE, Shapes, shapes

Call = Callable[..., Tensor]


def build_operator(case: Case, candidate: Candidate) -> Step:
    """Return the step of one operator, by the published formulation or by the package."""
    make = {
        "aggregated_attention": _attention,
        "conv_glu": _conv_glu,
        "gelu_pool": _gelu_pool,
        "position_bias": _position_bias,
        "window_qk": _window_qk,
        "window_av": _window_av,
    }[case.subject]
    function, inputs = make(shapes(case), candidate.code == "published")
    if candidate.dtype == "bfloat16":
        # As in a model under autocast: the activations are 16-bit, the parameters are not.
        inputs = [x.bfloat16() if _is_activation(x, case) else x for x in inputs]
        function = _under_autocast(function, candidate)
    return Step(_directed(function, inputs, case.direction))


def _under_autocast(function: Call, candidate: Candidate) -> Call:
    def run(*inputs: Tensor) -> Tensor:
        with autocast(candidate):
            return function(*inputs)

    return run


def _is_activation(x: Tensor, case: Case) -> bool:
    """Whether an input has the case's batch and tokens, full or pooled."""
    s = shapes(case)
    return x.dim() >= 3 and x.shape[0] == s.batch and x.shape[1] in (s.length, s.pool_length)


def _directed(function: Call, inputs: Sequence[Tensor], direction: str) -> Callable[[], object]:
    """Return a step: the function alone, its gradients to every input, or both."""
    if direction == "forward":

        def forward() -> object:
            with torch.inference_mode():
                return function(*inputs)

        return forward
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    if direction == "backward":
        out = function(*leaves)
        gradient = torch.randn(out.shape, dtype=out.dtype)
        return lambda: torch.autograd.grad(out, leaves, gradient, retain_graph=True)
    with torch.no_grad():
        d_out = torch.randn_like(function(*leaves))
    return lambda: torch.autograd.grad(function(*leaves), leaves, d_out)


def _attention(s: Shapes, published: bool) -> tuple[Call, list[Tensor]]:
    q = torch.randn(s.batch, s.length, s.width)
    kv = torch.randn(s.batch, s.length, 2 * s.width)
    kv_pool = torch.randn(s.batch, s.pool_length, 2 * s.width)
    scale, embedding = torch.rand(s.heads) * 4, torch.randn(s.heads, HEAD_DIM) * 0.02
    local_bias = torch.randn(s.heads, WINDOW_SIZE**2)
    tokens = torch.randn(s.heads, HEAD_DIM, WINDOW_SIZE**2) * 0.02
    token_bias = torch.randn(s.heads, WINDOW_SIZE**2)
    parameters = [scale, embedding, local_bias, tokens, token_bias]
    if published:
        # The published formulation gets the bias as N·P values, already gathered.
        pool_bias = torch.randn(s.heads, s.length, s.pool_length)
        outside = window.padding_mask(s.grid, WINDOW_SIZE)
        length_scale = window.length_scale(outside, s.pool_length)

        def run_published(q, kv, kv_pool, pool_bias, scale, embedding, local, tokens, token_bias):
            return attention.aggregated_attention(
                q,
                kv,
                kv_pool,
                grid=s.grid,
                window_size=WINDOW_SIZE,
                scale=scale[:, None, None],
                length_scale=length_scale,
                outside=outside,
                query_embedding=embedding[:, None],
                local_bias=local,
                pool_bias=pool_bias,
                tokens=tokens,
                token_bias=token_bias[:, None],
            )

        return run_published, [q, kv, kv_pool, pool_bias, *parameters]

    bias = ops.position_bias(
        *_mlp(s), grid=s.grid, pool_grid=s.pool_grid, pretrain_grid=s.pretrain_grid
    )

    def run(q, k, v, k_pool, v_pool, table, scale, embedding, local, tokens, token_bias):
        # As position_bias makes it: its maps are not checked again.
        maps = bias.row_map, bias.col_map, bias.col_weights
        return ops.aggregated_attention(
            q,
            k,
            v,
            k_pool,
            v_pool,
            grid=s.grid,
            pool_grid=s.pool_grid,
            window_size=WINDOW_SIZE,
            scale=scale,
            query_embedding=embedding,
            local_bias=local,
            pool_bias=ops.PositionBias(table, *maps, _trusted=True),
            tokens=tokens,
            token_bias=token_bias,
        )

    heads = (s.heads, HEAD_DIM)
    views = [q.unflatten(-1, heads)]
    for packed in (kv, kv_pool):
        views += packed.unflatten(-1, (2, *heads)).unbind(2)
    return run, [*views, bias.table.detach(), *parameters]


def _conv_glu(s: Shapes, published: bool) -> tuple[Call, list[Tensor]]:
    function = conv_glu.conv_glu if published else ops.conv_glu
    x = torch.randn(s.batch, s.length, 2 * s.hidden)
    weight, bias = torch.randn(s.hidden, 1, 3, 3), torch.randn(s.hidden)
    return lambda x, weight, bias: function(x, weight, bias, grid=s.grid), [x, weight, bias]


def _gelu_pool(s: Shapes, published: bool) -> tuple[Call, list[Tensor]]:
    x = torch.randn(s.batch, s.length, s.width)

    def run_published(x: Tensor) -> Tensor:
        image = x.permute(0, 2, 1).reshape(s.batch, s.width, *s.grid).contiguous()
        return attention.gelu_pool(image, pool_grid=s.pool_grid)

    def run(x: Tensor) -> Tensor:
        return ops.gelu_pool(x, grid=s.grid, pool_grid=s.pool_grid)

    return run_published if published else run, [x]


def _mlp(s: Shapes) -> list[Tensor]:
    return [
        torch.randn(BIAS_HIDDEN, 2),
        torch.randn(BIAS_HIDDEN),
        torch.randn(s.heads, BIAS_HIDDEN) * 0.05,
        torch.randn(s.heads),
    ]


def _position_bias(s: Shapes, published: bool) -> tuple[Call, list[Tensor]]:
    """Return the MLP and its lookup: N·P values as published, a table for the package.

    Coordinates and index are made outside the step, as for a classifier, and here axis by axis:
    sorting the pairs of a dense task's grid would take longer than all the timing.
    """
    weights = _mlp(s)
    if published:
        made = _coordinates_by_axes(s)

        def run_published(w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
            return gather_bias(lambda x: F.linear(x, w1, b1), lambda x: F.linear(x, w2, b2), *made)

        return run_published, weights

    def run(*mlp: Tensor) -> Tensor:
        return ops.position_bias(
            *mlp, grid=s.grid, pool_grid=s.pool_grid, pretrain_grid=s.pretrain_grid
        ).table

    return run, weights


def _coordinates_by_axes(s: Shapes) -> tuple[Tensor, Tensor]:
    """Return what ``published.position_bias.coordinates`` does, up to rounding and order."""
    axes, indices = [], []
    for size, pooled, pretrain in zip(s.grid, s.pool_grid, s.pretrain_grid, strict=True):
        distinct, index = coordinates((size, 1), (pooled, 1), (pretrain, 1))
        axes.append(distinct[:, 0])
        indices.append(index)
    rows, columns = indices
    index = rows[:, None, :, None] * len(axes[1]) + columns[None, :, None, :]
    return torch.cartesian_prod(*axes), index.reshape(s.length, s.pool_length)


def _heads_first(s: Shapes) -> Tensor:
    return torch.randn(s.batch, s.heads, s.length, HEAD_DIM)


def _window_qk(s: Shapes, published: bool) -> tuple[Call, list[Tensor]]:
    function = window.window_qk if published else ops.window_qk
    q, k, bias = _heads_first(s), _heads_first(s), torch.randn(s.heads, WINDOW_SIZE**2)
    return (
        lambda q, k, bias: function(q, k, bias, grid=s.grid, window_size=WINDOW_SIZE),
        [q, k, bias],
    )


def _window_av(s: Shapes, published: bool) -> tuple[Call, list[Tensor]]:
    function = window.window_av if published else ops.window_av
    attn = torch.rand(s.batch, s.heads, s.length, WINDOW_SIZE**2)
    return (
        lambda attn, v: function(attn, v, grid=s.grid, window_size=WINDOW_SIZE),
        [attn, _heads_first(s)],
    )
