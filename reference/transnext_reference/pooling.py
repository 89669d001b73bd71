r"""Adaptive average pooling of GELU, on tokens.

Pooled row a of Hp averages the rows of its bin, floor(a H / Hp) .. ceil((a + 1) H / Hp) - 1, and
columns likewise. Bins overlap where Hp does not divide H. A bin of the grid is the product of a
row bin and a column bin, so its mean is one averaging matrix per axis::

    pooled[a, b] = sum_i sum_j R[a, i] S[b, j] GELU(x[i, j])

with R ``[Hp, H]``, each row one over the bin's size inside the bin; S ``[Wp, W]`` likewise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from transnext_reference.arrays import Array, Grid, check_grid, float64
from transnext_reference.numerics import gelu, gelu_and_slope


def averaging_matrix(size: int, bins: int) -> Array:
    """The matrix ``[bins, size]`` whose row a averages adaptive-pooling bin a."""
    matrix = np.zeros((bins, size))
    for a in range(bins):
        first, last = a * size // bins, -(-(a + 1) * size // bins)  # floor, ceil
        matrix[a, first:last] = 1.0 / (last - first)
    return matrix


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
    x = float64("x", x, None, height * width, None)
    batch, _, channels = x.shape
    activated = gelu(x).reshape(batch, height, width, channels)
    pooled = np.einsum(
        "ai,bj,nijc->nabc",
        averaging_matrix(height, pool_height),
        averaging_matrix(width, pool_width),
        activated,
        optimize=True,
    )
    return pooled.reshape(batch, pool_height * pool_width, channels)


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
    x = float64("x", x, None, height * width, None)
    batch, _, channels = x.shape
    d_out = float64("d_out", d_out, batch, pool_height * pool_width, channels)
    d_activated = np.einsum(
        "ai,bj,nabc->nijc",
        averaging_matrix(height, pool_height),
        averaging_matrix(width, pool_width),
        d_out.reshape(batch, pool_height, pool_width, channels),
        optimize=True,
    )
    _, slope = gelu_and_slope(x)
    return {"x": slope * d_activated.reshape(x.shape)}
