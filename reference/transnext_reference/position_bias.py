r"""Continuous position bias (paper, section 3.1.3: overcoming multi-scale image input).

A small MLP gives each pair of query n = i W + j and pooled key m = a Wp + b its bias per head::

    axis coordinate of the query        i
    axis coordinate of the pooled key   mean of the coordinates i inside adaptive-pooling bin a
    rel    = (query - key) / max(pretrain - 1, 1) * 8                 per axis
    coord  = sign(rel) log2(|rel| + 1) / log2(8)                      per axis
    u      = W1 (coord_row, coord_column) + b1                        [E]
    bias   = W2 ReLU(u) + b2                                          [h]

This file evaluates the MLP for every (n, m), as the formulas stand. bias_table.py has the same
bias as a table over the distinct coordinates; either form checks the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from transnext_reference.arrays import Array, Grid, check_grid, float64
from transnext_reference.pooling import averaging_matrix

if TYPE_CHECKING:
    from typing_extensions import Unpack

_CHUNK = 256  # pairs at a time: their hidden layer, hundreds of times larger, stays in cache


@dataclass(frozen=True)
class BiasMlp:
    """The bias MLP, from coordinate pairs ``[K, 2]`` to biases ``[K, h]``."""

    fc1_weight: Array  # [E, 2]
    fc1_bias: Array  # [E]
    fc2_weight: Array  # [h, E]
    fc2_bias: Array  # [h]

    @classmethod
    def of(
        cls,
        fc1_weight: ArrayLike,
        fc1_bias: ArrayLike,
        fc2_weight: ArrayLike,
        fc2_bias: ArrayLike,
    ) -> BiasMlp:
        """Check the parameters; raise ValueError if a shape does not fit."""
        first = float64("fc1_weight", fc1_weight, None, 2)
        second = float64("fc2_weight", fc2_weight, None, first.shape[0])
        return cls(
            first,
            float64("fc1_bias", fc1_bias, first.shape[0]),
            second,
            float64("fc2_bias", fc2_bias, second.shape[0]),
        )

    @property
    def heads(self) -> int:
        """Number of heads, h."""
        return self.fc2_weight.shape[0]

    def forward(self, coordinates: Array) -> Array:
        """Biases ``[K, h]``."""
        result = np.empty((coordinates.shape[0], self.heads))
        for chunk in _chunks(coordinates.shape[0]):
            u = coordinates[chunk] @ self.fc1_weight.T
            u += self.fc1_bias
            result[chunk] = np.maximum(u, 0.0, out=u) @ self.fc2_weight.T
        return result + self.fc2_bias

    def backward(self, d_result: Array, coordinates: Array) -> dict[str, Array]:
        r"""Gradients from ``[K, h]``, with sums over the K pairs and y = ReLU(u).

        ::

        d_W2 = sum d_bias y^T,     d_b2 = sum d_bias
        d_u  = W2^T d_bias where u > 0, else 0
        d_W1 = sum d_u coord^T,    d_b1 = sum d_u
        """
        gradients = {
            "fc1_weight": np.zeros(self.fc1_weight.shape),
            "fc1_bias": np.zeros(self.fc1_bias.shape),
            "fc2_weight": np.zeros(self.fc2_weight.shape),
            "fc2_bias": d_result.sum(axis=0),
        }
        for chunk in _chunks(coordinates.shape[0]):
            u = coordinates[chunk] @ self.fc1_weight.T + self.fc1_bias
            d_u = np.where(u > 0, d_result[chunk] @ self.fc2_weight, 0.0)
            gradients["fc2_weight"] += d_result[chunk].T @ np.maximum(u, 0.0)
            gradients["fc1_weight"] += d_u.T @ coordinates[chunk]
            gradients["fc1_bias"] += d_u.sum(axis=0)
        return gradients


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, count, _CHUNK))


def axis_coordinates(size: int, bins: int, pretrain: int) -> Array:
    """Return one axis' coordinates ``coord[i, a]``: query i of `size`, pooled key a of `bins`.

    Parameters
    ----------
    size, bins
        Extents of the grid and of the pooled grid along the axis.
    pretrain
        Extent of the grid the weights were trained on, which sets the unit of length.

    Returns
    -------
    numpy.ndarray
        ``[size, bins]``, in units of log2(8): within -1 .. 1 for a distance of up to 7/8 of the
        training grid.
    """
    queries = np.arange(size, dtype=np.float64)
    keys = averaging_matrix(size, bins) @ queries
    relative = (queries[:, None] - keys[None, :]) / max(pretrain - 1, 1) * 8
    return np.sign(relative) * np.log2(np.abs(relative) + 1) / np.log2(8)


def _pair_coordinates(grid: Grid, pool_grid: Grid, pretrain_grid: Grid) -> Array:
    """``[N * P, 2]``: (row, column) coordinate of every pair (n, m), m running fastest."""
    height, width = check_grid("grid", grid)
    pool_height, pool_width = check_grid("pool_grid", pool_grid)
    pretrain_height, pretrain_width = check_grid("pretrain_grid", pretrain_grid)
    pairs = np.empty((height, width, pool_height, pool_width, 2))
    rows = axis_coordinates(height, pool_height, pretrain_height)
    columns = axis_coordinates(width, pool_width, pretrain_width)
    pairs[..., 0] = rows[:, None, :, None]
    pairs[..., 1] = columns[None, :, None, :]
    return pairs.reshape(-1, 2)


def bilinear_matrix(size: int, source_size: int) -> Array:
    """Return the matrix ``[size, source_size]`` of a bilinear resize along one axis.

    Pixel centres are aligned, not corners: output o reads position (o + 1/2) source_size / size -
    1/2, clamped to the source, between its two neighbours. Equal sizes give the identity.
    """
    position = np.maximum((np.arange(size) + 0.5) * (source_size / size) - 0.5, 0.0)
    lower = np.minimum(position.astype(np.intp), source_size - 1)
    upper = np.minimum(lower + 1, source_size - 1)
    matrix = np.zeros((size, source_size))
    output = np.arange(size)
    matrix[output, lower] += 1.0 - (position - lower)
    matrix[output, upper] += position - lower
    return matrix


@dataclass(frozen=True)
class BiasResize:
    """Bilinear resize of a dense bias, over its key grid and then over its query grid.

    Both resizes are linear and separable: one matrix per axis.
    """

    key_rows: Array  # [Hp, training Hp]
    key_columns: Array  # [Wp, training Wp]
    query_rows: Array  # [H, training H]
    query_columns: Array  # [W, training W]

    @classmethod
    def between(
        cls, grid: Grid, pool_grid: Grid, train_grid: Grid, train_pool_grid: Grid
    ) -> BiasResize:
        """Return the resize from the training grids to the grids in use."""
        sizes = (*check_grid("pool_grid", pool_grid), *check_grid("grid", grid))
        sources = (
            *check_grid("train_pool_grid", train_pool_grid),
            *check_grid("train_grid", train_grid),
        )
        return cls(*map(bilinear_matrix, sizes, sources))

    def forward(self, bias: Array) -> Array:
        """``[h, training N, training P]`` to ``[h, N, P]``."""
        return self._apply(
            bias, self.key_rows, self.key_columns, self.query_rows, self.query_columns
        )

    def backward(self, d_result: Array) -> Array:
        """Apply the transposed matrices: ``[h, N, P]`` to ``[h, training N, training P]``."""
        return self._apply(
            d_result, self.key_rows.T, self.key_columns.T, self.query_rows.T, self.query_columns.T
        )

    @staticmethod
    def _apply(
        bias: Array, key_rows: Array, key_columns: Array, query_rows: Array, query_columns: Array
    ) -> Array:
        heads = bias.shape[0]
        image = bias.reshape(heads, -1, key_rows.shape[1], key_columns.shape[1])
        image = key_rows @ (image @ key_columns.T)  # [h, source N, Hp, Wp]
        image = image.reshape(heads, query_rows.shape[1], query_columns.shape[1], -1)
        image = np.einsum("jJ,hIJp->hIjp", query_columns, image, optimize=True)
        image = np.einsum("iI,hIjp->hijp", query_rows, image, optimize=True)
        return image.reshape(heads, query_rows.shape[0] * query_columns.shape[0], -1)


class TrainGrids(TypedDict, total=False):
    """The grids to interpolate a bias from."""

    train_grid: Grid | None
    train_pool_grid: Grid | None


class BiasGrids(TrainGrids):
    """The keyword arguments of `position_bias`, which describes them."""

    grid: Grid
    pool_grid: Grid
    pretrain_grid: Grid


def bias_source(
    *, grid: Grid, pool_grid: Grid, pretrain_grid: Grid,
    train_grid: Grid | None = None, train_pool_grid: Grid | None = None,
) -> tuple[Grid, Grid, BiasResize | None]:  # fmt: skip
    """Return the grid and pooled grid to evaluate the MLP on, and the resize from there, if any.

    Raises
    ------
    ValueError
        If `pretrain_grid` is no grid, or only one of the training grids is given.
    """
    check_grid("pretrain_grid", pretrain_grid)
    if train_grid is None and train_pool_grid is None:
        return grid, pool_grid, None
    if train_grid is None or train_pool_grid is None:
        raise ValueError(
            f"train_grid, train_pool_grid: got {train_grid} and {train_pool_grid}, needs both "
            "(interpolation) or neither (extrapolation)"
        )
    resize = BiasResize.between(grid, pool_grid, train_grid, train_pool_grid)
    return train_grid, train_pool_grid, resize


def position_bias(
    fc1_weight: ArrayLike,
    fc1_bias: ArrayLike,
    fc2_weight: ArrayLike,
    fc2_bias: ArrayLike,
    *,
    grid: Grid,
    pool_grid: Grid,
    pretrain_grid: Grid,
    train_grid: Grid | None = None,
    train_pool_grid: Grid | None = None,
) -> Array:
    """Compute the bias of every pair of query and pooled key, as the formulas stand.

    Extrapolation evaluates the MLP at the coordinates of the grid in use. Interpolation, chosen
    by giving the training grids, evaluates it there and resizes the result bilinearly, first over
    the key grid and then over the query grid.

    Parameters
    ----------
    fc1_weight, fc1_bias
        First layer, ``[E, 2]`` and ``[E]``; inputs in the order (row, column).
    fc2_weight, fc2_bias
        Second layer, ``[h, E]`` and ``[h]``.
    grid, pool_grid
        ``(H, W)`` and ``(Hp, Wp)``. For global attention the pooled grid is the grid.
    pretrain_grid
        The grid of this stage at the size the weights were trained at: the unit of length.
    train_grid, train_pool_grid
        The grids to interpolate from; None for extrapolation.

    Returns
    -------
    numpy.ndarray
        ``[h, N, P]``.

    Raises
    ------
    ValueError
        If a shape does not fit, or only one of the training grids is given.
    """
    mlp = BiasMlp.of(fc1_weight, fc1_bias, fc2_weight, fc2_bias)
    source, pool_source, resize = bias_source(
        grid=grid, pool_grid=pool_grid, pretrain_grid=pretrain_grid, train_grid=train_grid,
        train_pool_grid=train_pool_grid,
    )  # fmt: skip
    coordinates = _pair_coordinates(source, pool_source, pretrain_grid)
    bias = mlp.forward(coordinates).T.reshape(mlp.heads, math.prod(source), math.prod(pool_source))
    return bias if resize is None else resize.forward(bias)


def position_bias_backward(
    d_bias: ArrayLike,
    fc1_weight: ArrayLike,
    fc1_bias: ArrayLike,
    fc2_weight: ArrayLike,
    fc2_bias: ArrayLike,
    **grids: Unpack[BiasGrids],
) -> dict[str, Array]:
    """Gradients of `position_bias`: the transposed resize, then the MLP's gradients.

    Parameters
    ----------
    d_bias
        ``[h, N, P]``.
    fc1_weight, fc1_bias, fc2_weight, fc2_bias
        As in `position_bias`.
    **grids
        Its keyword arguments.

    Returns
    -------
    dict
        Gradients of ``fc1_weight``, ``fc1_bias``, ``fc2_weight``, ``fc2_bias``.
    """
    mlp = BiasMlp.of(fc1_weight, fc1_bias, fc2_weight, fc2_bias)
    source, pool_source, resize = bias_source(**grids)
    coordinates = _pair_coordinates(source, pool_source, grids["pretrain_grid"])
    pairs = math.prod(grids["grid"]), math.prod(grids["pool_grid"])
    d_bias = float64("d_bias", d_bias, mlp.heads, *pairs)
    if resize is not None:
        d_bias = resize.backward(d_bias)
    return mlp.backward(d_bias.reshape(mlp.heads, -1).T, coordinates)
