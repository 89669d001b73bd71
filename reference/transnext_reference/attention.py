r"""Aggregated attention (paper, section 3.1).

Notation, for one image and one head; n, m number queries and pooled keys, l window cells::

    x^      = x / max(|x|, 1e-12)                       a normalised vector
    rho     = rho(n, l), the token in window cell l of query n (window.py)
    N_n     = number of window cells of n inside the grid + P      how many keys n sees
    tau     = softplus(temperature), the argument `scale`          QE = `query_embedding`
    Qs_n    = tau log(N_n) (Q^_n + QE)
    S_nl    = Qs_n . K^_rho + B_l                       local logits, -inf outside the grid
    S_nm    = Qs_n . Kp^_m + B_nm                       pooled logits
    A       = softmax over the L local and P pooled logits of n together
    W_nl    = A_nl + Q^_n . T_l + t_l                   T = `tokens`, t = `token_bias`
    O_n     = sum_l W_nl V_rho + sum_m A_nm Vp_m        V = 0 outside the grid

The tau log N in front keeps the sharpness of the softmax when the number of keys changes with the
image size (length-scaled cosine attention). The positional term Q^ T + t needs no softmax: a
query's own reading of the positions around it.

Its special cases, pixel-focused and global attention, are in special_attention.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transnext_reference.arrays import BATCH, Array, Grid, cell_count, float64
from transnext_reference.numerics import (
    normalize,
    normalize_backward,
    softmax,
    softmax_backward,
)
from transnext_reference.window import (
    check_window,
    gather_window,
    scatter_window,
    window_cells,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PixelFocusedOptions(TypedDict, total=False):
    """The optional tensors of pixel-focused attention."""

    local_bias: ArrayLike | None
    pool_bias: ArrayLike | None


class PixelFocusedArguments(PixelFocusedOptions):
    """The keyword arguments of `pixel_focused_attention`, which describes them."""

    grid: Grid
    pool_grid: Grid
    window_size: int
    scale: ArrayLike


class AttentionOptions(TypedDict, total=False):
    """The optional tensors that aggregated attention adds."""

    query_embedding: ArrayLike | None
    tokens: ArrayLike | None
    token_bias: ArrayLike | None


class AttentionArguments(AttentionOptions, PixelFocusedArguments):
    """The keyword arguments of `aggregated_attention`, which describes them."""


@dataclass(frozen=True)
class _Inputs:
    """The arguments of one call as float64, with zeros for what was not given."""

    q: Array  # [B, N, h, d]
    k: Array  # [B, N, h, d]
    v: Array  # [B, N, h, d]
    k_pool: Array  # [B, P, h, d]
    v_pool: Array  # [B, P, h, d]
    scale: Array  # [h]
    query_embedding: Array  # [h, d]
    local_bias: Array  # [h, L]
    pool_bias: Array  # [h, N, P]
    tokens: Array  # [h, d, L]
    token_bias: Array  # [h, L]
    grid: Grid
    window_size: int
    inside: NDArray[np.bool_]  # [N, L]
    given: frozenset[str]  # names of the arguments that were given


def _prepare(
    q: ArrayLike, k: ArrayLike | None, v: ArrayLike | None, k_pool: ArrayLike, v_pool: ArrayLike,
    *, grid: Grid, pool_grid: Grid, window_size: int, scale: ArrayLike,
    query_embedding: ArrayLike | None = None, local_bias: ArrayLike | None = None,
    pool_bias: ArrayLike | None = None, tokens: ArrayLike | None = None,
    token_bias: ArrayLike | None = None,
) -> _Inputs:  # fmt: skip
    """Check the arguments of `aggregated_attention`."""
    count, window = cell_count("grid", grid), check_window("window_size", window_size) ** 2
    pooled = cell_count("pool_grid", pool_grid)
    q = float64("q", q, BATCH, count, None, None)
    batch, _, heads, dim = q.shape
    optionals = {
        "k": k,
        "v": v,
        "query_embedding": query_embedding,
        "local_bias": local_bias,
        "pool_bias": pool_bias,
        "tokens": tokens,
        "token_bias": token_bias,
    }
    given = frozenset(name for name, value in optionals.items() if value is not None)

    def or_zeros(name: str, *shape: int) -> Array:
        value = optionals[name]
        return np.zeros(shape) if value is None else float64(name, value, *shape)

    for name in ("k", "v"):
        if window and name not in given:
            raise ValueError(f"{name}: got None, needs an array with window_size {window_size}")
    return _Inputs(
        q=q,
        k=or_zeros("k", *q.shape),
        v=or_zeros("v", *q.shape),
        k_pool=float64("k_pool", k_pool, batch, pooled, heads, dim),
        v_pool=float64("v_pool", v_pool, batch, pooled, heads, dim),
        scale=float64("scale", scale, heads),
        query_embedding=or_zeros("query_embedding", heads, dim),
        local_bias=or_zeros("local_bias", heads, window),
        pool_bias=or_zeros("pool_bias", heads, count, pooled),
        tokens=or_zeros("tokens", heads, dim, window),
        token_bias=or_zeros("token_bias", heads, window),
        grid=grid,
        window_size=window_size,
        inside=window_cells(grid, window_size)[1],
        given=given | {"q", "k_pool", "v_pool", "scale"},
    )


@dataclass(frozen=True)
class _Forward:
    """Everything the forward computes, kept for the gradients."""

    unit_q: Array  # Q^, [B, N, h, d]
    sharpness: Array  # tau log(N_n), [N, h, 1]
    scaled_q: Array  # Qs, [B, N, h, d]
    window_k: Array  # K^_rho, [B, N, L, h, d]
    window_v: Array  # V_rho, [B, N, L, h, d]
    unit_k_pool: Array  # Kp^, [B, P, h, d]
    attention: Array  # A, [B, N, h, L + P]
    window_weight: Array  # W, [B, N, h, L]
    log_sum_exp: Array  # [B, N, h]
    out: Array  # O, [B, N, h, d]


def _with_pooled(x: Array, pooled: Array) -> Array:
    """x_n . pooled_m for all n and m: ``[B, N, h, d]``, ``[B, P, h, d]`` to ``[B, N, h, P]``."""
    return (x.swapaxes(1, 2) @ pooled.transpose(0, 2, 3, 1)).swapaxes(1, 2)


def _sum_pooled(weight: Array, pooled: Array) -> Array:
    """sum_m weight_nm pooled_m: ``[B, N, h, P]``, ``[B, P, h, d]`` to ``[B, N, h, d]``."""
    return (weight.swapaxes(1, 2) @ pooled.swapaxes(1, 2)).swapaxes(1, 2)


def _sum_queries(weight: Array, x: Array) -> Array:
    """sum_n weight_nm x_n: ``[B, N, h, P]``, ``[B, N, h, d]`` to ``[B, P, h, d]``."""
    return (weight.transpose(0, 2, 3, 1) @ x.swapaxes(1, 2)).swapaxes(1, 2)


def _attend(inputs: _Inputs) -> _Forward:
    window = inputs.inside.shape[1]
    keys_seen = inputs.inside.sum(axis=1) + inputs.k_pool.shape[1]  # [N]
    sharpness = (np.log(keys_seen)[:, None] * inputs.scale)[..., None]
    unit_q = normalize(inputs.q)
    scaled_q = sharpness * (unit_q + inputs.query_embedding)
    window_k = gather_window(normalize(inputs.k), inputs.grid, inputs.window_size)
    window_v = gather_window(inputs.v, inputs.grid, inputs.window_size)
    unit_k_pool = normalize(inputs.k_pool)

    local = np.einsum("bnhd,bnlhd->bnhl", scaled_q, window_k) + inputs.local_bias
    local = np.where(inputs.inside[:, None, :], local, -np.inf)
    pooled = _with_pooled(scaled_q, unit_k_pool) + inputs.pool_bias.swapaxes(0, 1)
    attention, log_sum_exp = softmax(np.concatenate([local, pooled], axis=-1))

    positional = np.einsum("bnhd,hdl->bnhl", unit_q, inputs.tokens) + inputs.token_bias
    window_weight = attention[..., :window] + positional
    out = np.einsum("bnhl,bnlhd->bnhd", window_weight, window_v)
    out = out + _sum_pooled(attention[..., window:], inputs.v_pool)
    return _Forward(
        unit_q,
        sharpness,
        scaled_q,
        window_k,
        window_v,
        unit_k_pool,
        attention,
        window_weight,
        log_sum_exp,
        out,
    )


def aggregated_attention(
    q: ArrayLike,
    k: ArrayLike | None,
    v: ArrayLike | None,
    k_pool: ArrayLike,
    v_pool: ArrayLike,
    *,
    grid: Grid,
    pool_grid: Grid,
    window_size: int,
    scale: ArrayLike,
    query_embedding: ArrayLike | None = None,
    local_bias: ArrayLike | None = None,
    pool_bias: ArrayLike | None = None,
    tokens: ArrayLike | None = None,
    token_bias: ArrayLike | None = None,
) -> tuple[Array, Array]:
    """Compute aggregated attention from un-normalised projections.

    Parameters
    ----------
    q, k, v
        ``[B, N, h, d]``; k and v may be None with window_size 0.
    k_pool, v_pool
        ``[B, P, h, d]``.
    grid, pool_grid
        ``(H, W)`` and ``(Hp, Wp)``.
    window_size
        Side of the window; 0 for none, any other for L = window_size^2 cells.
    scale
        tau, ``[h]``. The length scale log N_n is applied here, not by the caller.
    query_embedding
        QE, ``[h, d]``; None for zero, as all that follow.
    local_bias
        B_l, ``[h, L]``.
    pool_bias
        B_nm, dense ``[h, N, P]``.
    tokens, token_bias
        T ``[h, d, L]`` and t ``[h, L]``.

    Returns
    -------
    out
        O, ``[B, N, h, d]``.
    log_sum_exp
        ``[B, N, h]``: of the local and pooled logits together.

    Raises
    ------
    ValueError
        If a shape does not fit, or k or v is None with a window.
    """
    inputs = _prepare(
        q, k, v, k_pool, v_pool, grid=grid, pool_grid=pool_grid, window_size=window_size,
        scale=scale, query_embedding=query_embedding, local_bias=local_bias, pool_bias=pool_bias,
        tokens=tokens, token_bias=token_bias,
    )  # fmt: skip
    forward = _attend(inputs)
    return forward.out, forward.log_sum_exp


def aggregated_attention_backward(
    d_out: ArrayLike,
    q: ArrayLike,
    k: ArrayLike | None,
    v: ArrayLike | None,
    k_pool: ArrayLike,
    v_pool: ArrayLike,
    **arguments: Unpack[AttentionArguments],
) -> dict[str, Array]:
    r"""Gradients of `aggregated_attention`'s output.

    Backwards through the formulas at the head of this file. The two sums::

        d_W_nl  = d_O_n . V_rho                    d_Vp_m = sum_n A_nm d_O_n
        d_A_nl  = d_W_nl,  d_A_nm = d_O_n . Vp_m   d_V    = scatter over rho of W_nl d_O_n

    V is zero outside the grid, so d_W is too, though W itself may not be. The positional term::

        d_T_l   = sum over b, n of Q^_n d_W_nl     d_t_l  = sum over b, n of d_W_nl

    The softmax, over l and m together::

        d_S_n   = A_n (d_A_n - sum A_n d_A_n)
        d_B_l   = sum over b, n of d_S_nl          d_B_nm = sum over b of d_S_nm

    Note that sum A d_A is O . d_O less the positional term's part (Q^ T + t) . d_W. The logits::

        d_Qs_n  = sum_l d_S_nl K^_rho + sum_m d_S_nm Kp^_m
        d_K^    = scatter over rho of d_S_nl Qs_n
        d_Kp^_m = sum_n d_S_nm Qs_n

    The query, which also feeds the positional term, with c_n = tau log N_n::

        d_QE    = sum over b, n of c_n d_Qs_n
        d_tau   = sum over b, n of log(N_n) d_Qs_n . (Q^_n + QE)
        d_Q^_n  = c_n d_Qs_n + sum_l T_l d_W_nl

    and `normalize_backward` takes Q^, K^, Kp^ to the vectors before normalisation.

    Parameters
    ----------
    d_out
        d_O, ``[B, N, h, d]``.
    q, k, v, k_pool, v_pool
        As in `aggregated_attention`.
    **arguments
        Its keyword arguments.

    Returns
    -------
    dict
        A gradient for every tensor that was given, by argument name, of that tensor's shape.
    """
    inputs = _prepare(q, k, v, k_pool, v_pool, **arguments)
    forward = _attend(inputs)
    window = inputs.inside.shape[1]
    d_out = float64("d_out", d_out, *inputs.q.shape)

    d_weight = np.einsum("bnhd,bnlhd->bnhl", d_out, forward.window_v)
    d_window_v = np.einsum("bnhl,bnhd->bnlhd", forward.window_weight, d_out)
    d_pooled = _with_pooled(d_out, inputs.v_pool)

    d_logits = softmax_backward(np.concatenate([d_weight, d_pooled], axis=-1), forward.attention)
    d_local, d_pooled_logits = d_logits[..., :window], d_logits[..., window:]

    d_scaled_q = np.einsum("bnhl,bnlhd->bnhd", d_local, forward.window_k)
    d_scaled_q += _sum_pooled(d_pooled_logits, forward.unit_k_pool)
    d_window_k = np.einsum("bnhl,bnhd->bnlhd", d_local, forward.scaled_q)
    d_unit_k = scatter_window(d_window_k, inputs.grid, inputs.window_size)
    d_unit_k_pool = _sum_queries(d_pooled_logits, forward.scaled_q)

    embedded_q = forward.unit_q + inputs.query_embedding
    log_count = np.log(inputs.inside.sum(axis=1) + inputs.k_pool.shape[1])  # [N]
    d_embedded_q = forward.sharpness * d_scaled_q
    d_unit_q = d_embedded_q + np.einsum("bnhl,hdl->bnhd", d_weight, inputs.tokens)

    gradients = {
        "q": normalize_backward(d_unit_q, inputs.q),
        "k": normalize_backward(d_unit_k, inputs.k),
        "v": scatter_window(d_window_v, inputs.grid, inputs.window_size),
        "k_pool": normalize_backward(d_unit_k_pool, inputs.k_pool),
        "v_pool": _sum_queries(forward.attention[..., window:], d_out),
        "scale": np.einsum("n,bnhd,bnhd->h", log_count, d_scaled_q, embedded_q),
        "query_embedding": d_embedded_q.sum(axis=(0, 1)),
        "local_bias": d_local.sum(axis=(0, 1)),
        "pool_bias": d_pooled_logits.sum(axis=0).swapaxes(0, 1),
        "tokens": np.einsum("bnhd,bnhl->hdl", forward.unit_q, d_weight),
        "token_bias": d_weight.sum(axis=(0, 1)),
    }
    return {name: value for name, value in gradients.items() if name in inputs.given}
