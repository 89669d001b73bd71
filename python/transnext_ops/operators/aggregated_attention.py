"""Aggregated attention: a sharp 3×3 neighbourhood and a coarse whole image in one softmax.

Source: Shi, "TransNeXt: Robust Foveal Visual Perception for Vision Transformers", CVPR 2024,
arXiv 2311.17132, sections 3.1.1 (pixel-focused attention) and 3.1.2 (aggregated attention).
"""

from __future__ import annotations

from torch import Tensor

from transnext_ops.cupy_arrays import accepts_cupy
from transnext_ops.dispatch.autocast import autocast_activations
from transnext_ops.dispatch.run import run
from transnext_ops.operators.checks import (
    Grid,
    check_grid,
    check_tokens,
    check_window_size,
    tensor_checks,
)
from transnext_ops.operators.position_bias.table import PositionBias, bias_arguments
from transnext_ops.schema import AGGREGATED_ATTENTION

_check = tensor_checks(
    AGGREGATED_ATTENTION,
    "q",
    (
        *("k", "v", "k_pool", "v_pool", "scale", "query_embedding", "local_bias"),
        *("tokens", "token_bias"),
    ),
)


@accepts_cupy
def aggregated_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    *,
    grid: Grid,
    pool_grid: Grid,
    window_size: int,
    scale: Tensor,
    query_embedding: Tensor | None = None,
    local_bias: Tensor | None = None,
    pool_bias: Tensor | PositionBias | None = None,
    tokens: Tensor | None = None,
    token_bias: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    r"""Attend to a local window and to pooled features in one softmax.

    For query n with window cells j (row-major, cells outside the image left out) and pooled cells
    m, with x̂ = x / max(‖x‖, 1e-12) and s(n) = log(window cells inside the image at n + P):

    .. math::
        t_n &= (\hat q_n + \mathrm{query\_embedding}) \cdot \mathrm{scale} \cdot s(n) \\
        a &= \mathrm{softmax}\big([t_n \cdot \hat k_{n+j} + \mathrm{local\_bias}_j,\;
             t_n \cdot \hat k^{pool}_m + \mathrm{pool\_bias}_{n,m}]\big) \\
        out_n &= \sum_j (a_j + \hat q_n \cdot \mathrm{tokens}_j + \mathrm{token\_bias}_j)\, v_{n+j}
             + \sum_m a_m v^{pool}_m

    Parameters
    ----------
    q, k, v : Tensor [B, N, h, d]
        Un-normalised projections, token-major, of any strides (slices of one packed Linear output
        are read in place). float32, float16, bfloat16 or float64.
    k_pool, v_pool : Tensor [B, P, h, d]
        Projections of the pooled features.
    grid, pool_grid : (int, int)
        (H, W) with H·W = N and (Hp, Wp) with Hp·Wp = P.
    window_size : int
        k; the window is k×k with cell (k//2, k//2) on the query. May exceed the grid.
    scale : Tensor [h]
        Factor per head, softplus(temperature) in TransNeXt; the length scale s(n) comes on top.
    query_embedding : Tensor [h, d], optional
    local_bias : Tensor [h, L], optional
        L = k². Logit bias of each window cell.
    pool_bias : PositionBias or Tensor [h, N, P], optional
        Logit bias of each (query, pooled cell).
    tokens : Tensor [h, d, L], optional
        Learnable tokens of the positional attention that is added after the softmax.
    token_bias : Tensor [h, L], optional
    backend : str, optional
        Overrides the backend in force for this call.

    Returns
    -------
    Tensor [B, N, h, d]
        In q's dtype (autocast's, where that is active), contiguous. Arithmetic is float32 at least,
        but for one case: where PyTorch allows TF32 for float32 matrix products
        (``torch.set_float32_matmul_precision``, ``torch.backends.cuda.matmul``; not by default),
        the forward's CUDA kernels round the float32 operands of QKᵀ and PV over the pooled keys to
        it.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, dtype, device or shape; the message names it.
    BackendError
        The backend asked for by name cannot run the call.
    """
    q, k, v, k_pool, v_pool = autocast_activations(q, k, v, k_pool, v_pool)
    grid, pool_grid = check_grid("grid", grid), check_grid("pool_grid", pool_grid)
    window_size = check_window_size(window_size)
    batch, length, heads, head_dim = check_tokens("q", q, "[B, N, h, d]", grid)
    k, v, k_pool, v_pool, scale, query_embedding, local_bias, tokens, token_bias = _check(
        q, k, v, k_pool, v_pool, scale, query_embedding, local_bias, tokens, token_bias,
        B=batch, N=length, P=pool_grid[0] * pool_grid[1], L=window_size * window_size,
        h=heads, d=head_dim,
    )  # fmt: skip
    bias = bias_arguments("pool_bias", pool_bias, heads, grid, pool_grid, q)
    arguments = (
        q, k, v, k_pool, v_pool, scale, query_embedding, local_bias, *bias, tokens, token_bias,
        grid, pool_grid, window_size,
    )  # fmt: skip
    return run(
        "aggregated_attention", q, arguments, backend, head_dim=head_dim, window_size=window_size
    )


@accepts_cupy
def pixel_focused_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    *,
    grid: Grid,
    pool_grid: Grid,
    window_size: int,
    scale: Tensor,
    local_bias: Tensor | None = None,
    pool_bias: Tensor | PositionBias | None = None,
    backend: str | None = None,
) -> Tensor:
    """Attend as :func:`aggregated_attention` without query embedding, tokens and token bias.

    The paper's section 3.1.1, kept for ablations. Arguments, result and errors are
    those of :func:`aggregated_attention`.
    """
    return aggregated_attention(
        q, k, v, k_pool, v_pool, grid=grid, pool_grid=pool_grid, window_size=window_size,
        scale=scale, local_bias=local_bias, pool_bias=pool_bias, backend=backend,
    )  # fmt: skip
