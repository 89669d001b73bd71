r"""Two special cases of aggregated attention, in the notation of attention.py.

Pixel-focused attention, the paper's earlier form, leaves out QE, T and t. Global attention, for the
stage whose grid is small, has no window, and its pooled keys are the keys themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from numpy.typing import ArrayLike

from transnext_reference.arrays import Array, Grid
from transnext_reference.attention import (
    AttentionArguments,
    PixelFocusedArguments,
    aggregated_attention,
    aggregated_attention_backward,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack


def pixel_focused_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    k_pool: ArrayLike,
    v_pool: ArrayLike,
    *,
    grid: Grid,
    pool_grid: Grid,
    window_size: int,
    scale: ArrayLike,
    local_bias: ArrayLike | None = None,
    pool_bias: ArrayLike | None = None,
) -> Array:
    """Compute the paper's earlier form: `aggregated_attention` without QE, T and t.

    Parameters, errors and the returned ``[B, N, h, d]`` are those of `aggregated_attention`.
    """
    out, _ = aggregated_attention(
        q, k, v, k_pool, v_pool, grid=grid, pool_grid=pool_grid, window_size=window_size,
        scale=scale, local_bias=local_bias, pool_bias=pool_bias,
    )  # fmt: skip
    return out


def pixel_focused_attention_backward(
    d_out: ArrayLike,
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    k_pool: ArrayLike,
    v_pool: ArrayLike,
    **arguments: Unpack[PixelFocusedArguments],
) -> dict[str, Array]:
    """Gradients of `pixel_focused_attention`: those of `aggregated_attention` with QE = T = t = 0.

    Parameters
    ----------
    d_out
        ``[B, N, h, d]``.
    q, k, v, k_pool, v_pool
        As in `pixel_focused_attention`.
    **arguments
        Its keyword arguments.

    Returns
    -------
    dict
        A gradient for every tensor that was given, by argument name.
    """
    return aggregated_attention_backward(d_out, q, k, v, k_pool, v_pool, **arguments)


class GlobalOptions(TypedDict, total=False):
    """The optional tensors of global attention."""

    query_embedding: ArrayLike | None
    bias: ArrayLike | None


class GlobalArguments(GlobalOptions):
    """The keyword arguments of `global_attention`, which describes them."""

    grid: Grid
    scale: ArrayLike


def _all_pooled(
    *, grid: Grid, scale: ArrayLike,
    query_embedding: ArrayLike | None = None, bias: ArrayLike | None = None,
) -> AttentionArguments:  # fmt: skip
    """Return the arguments of `aggregated_attention` with no window and every key pooled."""
    return {
        "grid": grid,
        "pool_grid": grid,
        "window_size": 0,
        "scale": scale,
        "query_embedding": query_embedding,
        "pool_bias": bias,
    }


def global_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    grid: Grid,
    scale: ArrayLike,
    query_embedding: ArrayLike | None = None,
    bias: ArrayLike | None = None,
) -> Array:
    r"""Attention over the whole grid: aggregated attention with no window and nothing pooled.

    ::

        O_n = sum_m softmax_m(tau log(N) (Q^_n + QE) . K^_m + bias_nm) V_m

    Parameters
    ----------
    q, k, v
        ``[B, N, h, d]``, un-normalised.
    grid
        ``(H, W)``.
    scale
        tau, ``[h]``.
    query_embedding
        QE ``[h, d]``, or None for zero.
    bias
        Dense ``[h, N, N]``, or None for zero.

    Returns
    -------
    numpy.ndarray
        ``[B, N, h, d]``.

    Raises
    ------
    ValueError
        If a shape does not fit.
    """
    arguments = _all_pooled(grid=grid, scale=scale, query_embedding=query_embedding, bias=bias)
    out, _ = aggregated_attention(q, None, None, k, v, **arguments)
    return out


def global_attention_backward(
    d_out: ArrayLike,
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    **arguments: Unpack[GlobalArguments],
) -> dict[str, Array]:
    """Gradients of `global_attention`: those of `aggregated_attention` under other names.

    Parameters
    ----------
    d_out
        ``[B, N, h, d]``.
    q, k, v
        As in `global_attention`.
    **arguments
        Its keyword arguments.

    Returns
    -------
    dict
        Gradients of ``q``, ``k``, ``v``, ``scale`` and, if they were given, ``query_embedding``
        and ``bias``.
    """
    pooled = _all_pooled(**arguments)
    gradients = aggregated_attention_backward(d_out, q, None, None, k, v, **pooled)
    own_names = {"k_pool": "k", "v_pool": "v", "pool_bias": "bias"}
    return {own_names.get(name, name): value for name, value in gradients.items()}
