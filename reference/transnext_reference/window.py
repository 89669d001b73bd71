r"""The sliding window: its cells, and the two products over it.

Token n = i W + j stands at row i, column j of the grid. Its window of side k (L = k^2 cells) is
centred on it: cell number l = (dy + r) k + (dx + r), r = k // 2, is the token at (i + dy, j + dx).
So dy and dx run from -r to k - 1 - r, which makes an even window reach one cell further up and
left than down and right. Written rho(n, l) below. Cells outside the grid do not exist: a query
sees no key there (logit -inf) and no value (zero).
"""

from __future__ import annotations

import operator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transnext_reference.arrays import BATCH, Array, Grid, cell_count, check_grid, float64
from transnext_reference.arrays import optional_float64 as optional

_LARGEST_WINDOW = 4096  # beyond, the number of cells is a mistake rather than a wish


def check_window(name: str, window_size: int) -> int:
    """Return the side of a window as an int from 0 to 4096.

    Raises
    ------
    ValueError
        If `window_size` is anything else.
    """
    try:
        side = operator.index(window_size)
    except TypeError:
        side = -1
    if not 0 <= side <= _LARGEST_WINDOW:
        raise ValueError(
            f"{name}: got {window_size!r}, needs a whole number from 0 to {_LARGEST_WINDOW}"
        )
    return side


def window_cells(grid: Grid, window_size: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return the window cells of every token.

    Parameters
    ----------
    grid
        ``(H, W)``.
    window_size
        k from 0 to 4096, odd or even, smaller or larger than the grid. 0 is the empty window.

    Returns
    -------
    cells
        rho, ``[N, L]``: the token in each cell; 0 for a cell outside the grid.
    inside
        ``[N, L]``: whether the cell is inside the grid.

    Raises
    ------
    ValueError
        If `grid` is not a grid or `window_size` is not a whole number from 0 to 4096.
    """
    height, width = check_grid("grid", grid)
    side = check_window("window_size", window_size)
    offsets = np.arange(side) - side // 2
    row = np.arange(height)[:, None] + offsets  # [H, k]
    column = np.arange(width)[:, None] + offsets  # [W, k]
    row_inside = (row >= 0) & (row < height)
    column_inside = (column >= 0) & (column < width)
    inside = row_inside[:, None, :, None] & column_inside[None, :, None, :]  # [H, W, k, k]
    cells = row[:, None, :, None] * width + column[None, :, None, :]
    shape = (height * width, side * side)
    return np.where(inside, cells, 0).reshape(shape), inside.reshape(shape)


def gather_window(x: Array, grid: Grid, window_size: int) -> Array:
    """Gather the values in every token's window: ``[B, N, ...]`` to ``[B, N, L, ...]``, else 0."""
    cells, inside = window_cells(grid, window_size)
    mask = inside.reshape(inside.shape + (1,) * (x.ndim - 2))
    return np.where(mask, x[:, cells], 0.0)


def scatter_window(d_windows: Array, grid: Grid, window_size: int) -> Array:
    r"""Gradient of `gather_window`: ``[B, N, L, ...]`` to ``[B, N, ...]``.

    A token's gradient is the sum over all window cells it lay in::

        d_x(m) = sum over (n, l) inside with rho(n, l) = m of d_windows(n, l)

    For one l, rho(., l) is a shift, which never sends two tokens to the same cell; so the sum is
    taken one l at a time.
    """
    cells, inside = window_cells(grid, window_size)
    d_x = np.zeros(d_windows.shape[:2] + d_windows.shape[3:])
    for cell in range(cells.shape[1]):
        centre = np.flatnonzero(inside[:, cell])
        d_x[:, cells[centre, cell]] += d_windows[:, centre, cell]
    return d_x


def _head_major(x: Array) -> Array:
    """``[B, N, h, ...]`` to ``[B, h, N, ...]``, or back."""
    return np.swapaxes(x, 1, 2)


def _sizes(grid: Grid, window_size: int) -> tuple[int, int]:
    """N and L; what is as large as they say comes after arguments have been held against them."""
    return cell_count("grid", grid), check_window("window_size", window_size) ** 2


def _inside_alone(x: Array, grid: Grid, window_size: int) -> Array:
    """``[..., N, L]`` with 0 for the cells outside the grid, whatever is there."""
    return np.where(window_cells(grid, window_size)[1], x, 0.0)


def _qk_inputs(
    q: ArrayLike, k: ArrayLike, bias: ArrayLike | None, grid: Grid, window_size: int
) -> tuple[Array, Array, Array | None]:
    """Check the arguments of `window_qk`."""
    tokens, window = _sizes(grid, window_size)
    q = float64("q", q, BATCH, None, tokens, None)
    return q, float64("k", k, *q.shape), optional("bias", bias, q.shape[1], window)


def _av_inputs(attn: ArrayLike, v: ArrayLike, grid: Grid, window_size: int) -> tuple[Array, Array]:
    """Check the arguments of `window_av`; return weights that are 0 outside the grid."""
    tokens, window = _sizes(grid, window_size)
    v = float64("v", v, BATCH, None, tokens, None)
    return _inside_alone(float64("attn", attn, *v.shape[:3], window), grid, window_size), v


def window_qk(
    q: ArrayLike,
    k: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    grid: Grid,
    window_size: int,
) -> Array:
    r"""Dot products of each query with the keys of its window.

    ::

        attn[b, h, n, l] = q[b, h, n] . k[b, h, rho(n, l)] + bias[h, l]    inside the grid
                         = -inf                                            outside

    Parameters
    ----------
    q, k
        Queries and keys, head-major ``[B, h, N, d]``; used as they are, neither normalised nor
        scaled.
    bias
        ``[h, L]``, or None for zero.
    grid
        ``(H, W)``.
    window_size
        k.

    Returns
    -------
    numpy.ndarray
        Logits ``[B, h, N, L]``.

    Raises
    ------
    ValueError
        If a shape does not fit.
    """
    q, k, bias = _qk_inputs(q, k, bias, grid, window_size)
    keys = gather_window(_head_major(k), grid, window_size)  # [B, N, L, h, d]
    logits = np.einsum("bhnd,bnlhd->bhnl", q, keys)
    if bias is not None:
        logits = logits + bias[:, None, :]
    return np.where(window_cells(grid, window_size)[1], logits, -np.inf)


def window_qk_backward(
    d_attn: ArrayLike,
    q: ArrayLike,
    k: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    grid: Grid,
    window_size: int,
) -> dict[str, Array]:
    r"""Gradients of `window_qk`.

    Outside the grid the logit is constant, so `d_attn` there is ignored, whatever it is. Inside::

        d_q[n]     = sum_l d_attn[n, l] k[rho(n, l)]                           [B, h, N, d]
        d_k[m]     = sum over (n, l) with rho(n, l) = m of d_attn[n, l] q[n]   [B, h, N, d]
        d_bias[l]  = sum over b, n of d_attn[n, l]                             [h, L]

    Parameters
    ----------
    d_attn
        ``[B, h, N, L]``.
    q, k, bias, grid, window_size
        As in `window_qk`.

    Returns
    -------
    dict
        Gradients of ``q``, ``k`` and, if it was given, ``bias``.
    """
    q, k, bias = _qk_inputs(q, k, bias, grid, window_size)
    d_attn = float64("d_attn", d_attn, *q.shape[:3], check_window("window_size", window_size) ** 2)
    d_attn = _inside_alone(d_attn, grid, window_size)
    keys = gather_window(_head_major(k), grid, window_size)
    d_keys = np.einsum("bhnl,bhnd->bnlhd", d_attn, q)
    gradients = {
        "q": np.einsum("bhnl,bnlhd->bhnd", d_attn, keys),
        "k": _head_major(scatter_window(d_keys, grid, window_size)),
    }
    if bias is not None:
        gradients["bias"] = d_attn.sum(axis=(0, 2))
    return gradients


def window_av(attn: ArrayLike, v: ArrayLike, *, grid: Grid, window_size: int) -> Array:
    r"""Weighted sum of the values in each query's window.

    ::

        out[b, h, n] = sum over l inside of attn[b, h, n, l] v[b, h, rho(n, l)]

    Parameters
    ----------
    attn
        Weights ``[B, h, N, L]``; ignored outside the grid, even if infinite or not a number.
    v
        Values, head-major ``[B, h, N, d]``.
    grid
        ``(H, W)``.
    window_size
        k.

    Returns
    -------
    numpy.ndarray
        ``[B, h, N, d]``.

    Raises
    ------
    ValueError
        If a shape does not fit.
    """
    attn, v = _av_inputs(attn, v, grid, window_size)
    values = gather_window(_head_major(v), grid, window_size)  # [B, N, L, h, d]
    return np.einsum("bhnl,bnlhd->bhnd", attn, values)


def window_av_backward(
    d_out: ArrayLike,
    attn: ArrayLike,
    v: ArrayLike,
    *,
    grid: Grid,
    window_size: int,
) -> dict[str, Array]:
    r"""Gradients of `window_av`.

    ::

        d_attn[n, l] = d_out[n] . v[rho(n, l)]  inside, 0 outside                 [B, h, N, L]
        d_v[m]       = sum over (n, l) with rho(n, l) = m of attn[n, l] d_out[n]  [B, h, N, d]

    Parameters
    ----------
    d_out
        ``[B, h, N, d]``.
    attn, v, grid, window_size
        As in `window_av`.

    Returns
    -------
    dict
        Gradients of ``attn`` and ``v``.
    """
    attn, v = _av_inputs(attn, v, grid, window_size)
    d_out = float64("d_out", d_out, *v.shape)
    values = gather_window(_head_major(v), grid, window_size)
    d_values = np.einsum("bhnl,bhnd->bnlhd", attn, d_out)
    return {
        "attn": np.einsum("bhnd,bnlhd->bhnl", d_out, values),
        "v": _head_major(scatter_window(d_values, grid, window_size)),
    }
