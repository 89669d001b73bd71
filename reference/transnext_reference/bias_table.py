r"""The continuous position bias as a table and two axis maps.

The MLP of position_bias.py sees a pair (n, m) only through its row coordinate, a function of
(i, a), and its column coordinate, a function of (j, b); and few of those differ. So the bias is a
table ``[h, R, S]`` over distinct coordinates, `position_bias_table`, read through one small map per
axis, `expand_position_bias`. The column map may mix several entries with weights, which is how a
bilinear resize over columns is written without leaving the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transnext_reference.arrays import Array, axis_map, float64
from transnext_reference.arrays import optional_float64 as optional
from transnext_reference.position_bias import BiasGrids, BiasMlp, axis_coordinates, bias_source

if TYPE_CHECKING:
    from typing_extensions import Unpack


def _product_coordinates(row_coords: ArrayLike, col_coords: ArrayLike) -> tuple[Array, int, int]:
    """``[R * S, 2]``: every pair of a row and a column coordinate, the column running fastest."""
    rows = float64("row_coords", row_coords, None)
    columns = float64("col_coords", col_coords, None)
    product = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
    return product.reshape(-1, 2), rows.size, columns.size


def position_bias_table(
    row_coords: ArrayLike,
    col_coords: ArrayLike,
    fc1_weight: ArrayLike,
    fc1_bias: ArrayLike,
    fc2_weight: ArrayLike,
    fc2_bias: ArrayLike,
) -> Array:
    """Evaluate the bias MLP over the product of row and column coordinates.

    Parameters
    ----------
    row_coords, col_coords
        Coordinates ``[R]`` and ``[S]``, as `axis_coordinates` has them (after the logarithm).
    fc1_weight, fc1_bias, fc2_weight, fc2_bias
        The MLP: ``[E, 2]``, ``[E]``, ``[h, E]``, ``[h]``.

    Returns
    -------
    numpy.ndarray
        Table ``[h, R, S]``.

    Raises
    ------
    ValueError
        If a shape does not fit.
    """
    mlp = BiasMlp.of(fc1_weight, fc1_bias, fc2_weight, fc2_bias)
    coordinates, rows, columns = _product_coordinates(row_coords, col_coords)
    return mlp.forward(coordinates).T.reshape(mlp.heads, rows, columns)


def position_bias_table_backward(
    d_table: ArrayLike,
    row_coords: ArrayLike,
    col_coords: ArrayLike,
    fc1_weight: ArrayLike,
    fc1_bias: ArrayLike,
    fc2_weight: ArrayLike,
    fc2_bias: ArrayLike,
) -> dict[str, Array]:
    """Gradients of `position_bias_table` by the MLP's parameters; coordinates are constants.

    Parameters
    ----------
    d_table
        ``[h, R, S]``.
    row_coords, col_coords, fc1_weight, fc1_bias, fc2_weight, fc2_bias
        As in `position_bias_table`.

    Returns
    -------
    dict
        Gradients of ``fc1_weight``, ``fc1_bias``, ``fc2_weight``, ``fc2_bias``.
    """
    mlp = BiasMlp.of(fc1_weight, fc1_bias, fc2_weight, fc2_bias)
    coordinates, rows, columns = _product_coordinates(row_coords, col_coords)
    d_table = float64("d_table", d_table, mlp.heads, rows, columns)
    return mlp.backward(d_table.reshape(mlp.heads, -1).T, coordinates)


def _checked(
    table: ArrayLike, row_map: ArrayLike, col_map: ArrayLike, col_weights: ArrayLike | None
) -> tuple[Array, NDArray[np.intp], NDArray[np.intp], Array | None]:
    """Check the arguments of `expand_position_bias`."""
    table = float64("table", table, None, None, None)
    _, rows, columns = table.shape
    row_map = axis_map("row_map", row_map, rows, None, None)
    col_map = axis_map("col_map", col_map, columns, None, None, 1 if col_weights is None else None)
    return table, row_map, col_map, optional("col_weights", col_weights, *col_map.shape)


def expand_position_bias(
    table: ArrayLike,
    row_map: ArrayLike,
    col_map: ArrayLike,
    col_weights: ArrayLike | None = None,
) -> Array:
    r"""Read a table through its axis maps, for every pair of query and pooled key.

    For n = i W + j and m = a Wp + b::

        bias[h, n, m] = sum_t col_weights[j, b, t] table[h, row_map[i, a], col_map[j, b, t]]

    Parameters
    ----------
    table
        ``[h, R, S]``.
    row_map
        Integers ``[H, Hp]`` in 0 .. R - 1.
    col_map
        Integers ``[W, Wp, taps]`` in 0 .. S - 1.
    col_weights
        ``[W, Wp, taps]``, or None for a single tap of weight one.

    Returns
    -------
    numpy.ndarray
        ``[h, N, P]``.

    Raises
    ------
    ValueError
        If a shape does not fit, a map points outside the table, or there are several taps
        without weights.
    """
    table, row_map, col_map, weights = _checked(table, row_map, col_map, col_weights)
    dense = table[:, row_map][..., col_map]  # [h, H, Hp, W, Wp, taps]
    if weights is not None:
        dense = dense * weights
    (height, pool_height), (width, pool_width) = row_map.shape, col_map.shape[:2]
    dense = dense.sum(axis=-1).transpose(0, 1, 3, 2, 4)  # [h, H, W, Hp, Wp]
    return dense.reshape(-1, height * width, pool_height * pool_width)


def expand_position_bias_backward(
    d_dense: ArrayLike,
    table: ArrayLike,
    row_map: ArrayLike,
    col_map: ArrayLike,
    col_weights: ArrayLike | None = None,
) -> Array:
    r"""Gradient of `expand_position_bias` by the table.

    Every entry collects the pairs that read it::

        d_table[h, r, s] = sum over i, a with row_map[i, a] = r, and
                           over j, b, t with col_map[j, b, t] = s,
                           of col_weights[j, b, t] d_dense[h, i W + j, a Wp + b]

    Parameters
    ----------
    d_dense
        ``[h, N, P]``.
    table, row_map, col_map, col_weights
        As in `expand_position_bias`.

    Returns
    -------
    numpy.ndarray
        d_table, ``[h, R, S]``.
    """
    table, row_map, col_map, weights = _checked(table, row_map, col_map, col_weights)
    heads, rows, columns = table.shape
    (height, pool_height), (width, pool_width) = row_map.shape, col_map.shape[:2]
    d_dense = float64("d_dense", d_dense, heads, height * width, pool_height * pool_width)
    d_pairs = d_dense.reshape(heads, height, width, pool_height, pool_width)
    d_taps = d_pairs.transpose(1, 3, 2, 4, 0)[:, :, :, :, None, :]  # [H, Hp, W, Wp, 1, h]
    if weights is not None:
        d_taps = d_taps * weights[..., None]
    d_table = np.zeros((rows, columns, heads))
    np.add.at(d_table, (row_map[:, :, None, None, None], col_map[None, None]), d_taps)
    return np.ascontiguousarray(d_table.transpose(2, 0, 1))


def _distinct(coordinates: Array) -> tuple[Array, NDArray[np.intp]]:
    """Return the distinct coordinates, and the index of each of ``[size, bins]`` among them."""
    distinct, indices = np.unique(coordinates, return_inverse=True)
    return distinct, indices.reshape(coordinates.shape)


def tabulated_position_bias(
    fc1_weight: ArrayLike,
    fc1_bias: ArrayLike,
    fc2_weight: ArrayLike,
    fc2_bias: ArrayLike,
    **grids: Unpack[BiasGrids],
) -> Array:
    """Compute `position_bias` by a table of the distinct coordinates, many times faster.

    Parameters, errors and the returned ``[h, N, P]`` are those of `position_bias`.
    """
    (height, width), (pool_height, pool_width), resize = bias_source(**grids)
    pretrain_height, pretrain_width = grids["pretrain_grid"]
    row_coords, row_map = _distinct(axis_coordinates(height, pool_height, pretrain_height))
    col_coords, col_map = _distinct(axis_coordinates(width, pool_width, pretrain_width))
    table = position_bias_table(row_coords, col_coords, fc1_weight, fc1_bias, fc2_weight, fc2_bias)
    bias = expand_position_bias(table, row_map, col_map[..., None])
    return bias if resize is None else resize.forward(bias)
