r"""Adaptive average pooling of GELU, on tokens.

Pooled row a of Hp averages the rows of its bin, floor(a H / Hp) .. ceil((a + 1) H / Hp) - 1, and
columns likewise. Bins overlap where Hp does not divide H. A bin of the grid is the product of a
row bin and a column bin, so its mean is one averaging matrix per axis::

    pooled[a, b] = sum_i sum_j R[a, i] S[b, j] GELU(x[i, j])

with R ``[Hp, H]``, each row one over the bin's size inside the bin; S ``[Wp, W]`` likewise. What is
outside a bin is left out rather than multiplied by zero, so that a NaN stays in its bins.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from transnext_reference.arrays import BATCH, Array, Grid, check_grid, float64
from transnext_reference.numerics import gelu, gelu_and_slope


def _bin(a: int, size: int, bins: int) -> slice:
    """Adaptive-pooling bin a of `bins`."""
    return slice(a * size // bins, -(-(a + 1) * size // bins))  # floor, ceil


def averaging_matrix(size: int, bins: int) -> Array:
    """Return the matrix ``[bins, size]`` whose row a averages adaptive-pooling bin a."""
    matrix = np.zeros((bins, size))
    for a in range(bins):
        inside = _bin(a, size, bins)
        matrix[a, inside] = 1.0 / (inside.stop - inside.start)
    return matrix


def _average(x: Array, bins: int) -> Array:
    """Return the means of the bins of axis 1: ``[n, size, ...]`` to ``[n, bins, ...]``."""
    size = x.shape[1]
    return np.stack([x[:, _bin(a, size, bins)].mean(axis=1) for a in range(bins)], axis=1)


def _average_backward(d_means: Array, size: int) -> Array:
    """Gradient of `_average`: ``[n, bins, ...]`` to ``[n, size, ...]``."""
    bins = d_means.shape[1]
    d_x = np.zeros((d_means.shape[0], size, *d_means.shape[2:]))
    for a in range(bins):
        inside = _bin(a, size, bins)
        d_x[:, inside] += d_means[:, a, None] / (inside.stop - inside.start)
    return d_x


def gelu_pool(x: ArrayLike, *, grid: Grid, pool_grid: Grid) -> Array:
    """Adaptive average pooling of GELU(x): the exact GELU first, the mean after.

    Parameters
    ----------
    x
        Tokens ``[B, N, C]``.
    grid
        ``(H, W)``, N = H W.
    pool_grid
        ``(Hp, Wp)``, P = Hp Wp.

    Returns
    -------
    numpy.ndarray
        ``[B, P, C]``.

    Raises
    ------
    ValueError
        If a shape does not fit.
    """
    height, width = check_grid("grid", grid)
    pool_height, pool_width = check_grid("pool_grid", pool_grid)
    x = float64("x", x, BATCH, height * width, None)
    batch, _, channels = x.shape
    activated = gelu(x).reshape(batch, height, width, channels)
    rows = _average(activated, pool_height).reshape(batch * pool_height, width, channels)
    return _average(rows, pool_width).reshape(batch, pool_height * pool_width, channels)


def gelu_pool_backward(
    d_out: ArrayLike, x: ArrayLike, *, grid: Grid, pool_grid: Grid
) -> dict[str, Array]:
    r"""Gradient of `gelu_pool`.

    Pooling is linear, so its gradient is the transposed matrices; then GELU's slope::

        d_x[i, j] = GELU'(x[i, j]) sum_a sum_b R[a, i] S[b, j] d_out[a, b]        [B, N, C]

    Parameters
    ----------
    d_out
        ``[B, P, C]``.
    x, grid, pool_grid
        As in `gelu_pool`.

    Returns
    -------
    dict
        The gradient of ``x``.
    """
    height, width = check_grid("grid", grid)
    pool_height, pool_width = check_grid("pool_grid", pool_grid)
    x = float64("x", x, BATCH, height * width, None)
    batch, _, channels = x.shape
    d_out = float64("d_out", d_out, batch, pool_height * pool_width, channels)
    d_rows = _average_backward(d_out.reshape(-1, pool_width, channels), width)
    d_activated = _average_backward(d_rows.reshape(batch, pool_height, width * channels), height)
    _, slope = gelu_and_slope(x)
    return {"x": slope * d_activated.reshape(x.shape)}
