"""The continuous position bias as a small table and two axis maps, never as an N×P index.

The bias of a (query, pooled cell) pair depends on their row distance and their column distance
alone, and both come from a short list. So the MLP runs on the product of the two lists, and

    bias[head, n, m] = sum_t col_weights[j, b, t] * table[head, row_map[i, a], col_map[j, b, t]]

for query n = (i, j) and pooled cell m = (a, b). Extrapolation needs one tap of weight 1.
Interpolation resizes the bias of the training grid; the resize is separable, so its row half is
folded into the table once and its column half stays as at most 4 weighted taps.

Source: TransNeXt paper (arXiv 2311.17132), section 3.1.3; coordinates after Swin Transformer V2's
log-spaced continuous position bias.
"""

from __future__ import annotations

import torch
from torch import Tensor

from transnext_ops.cupy_arrays import accepts_cupy
from transnext_ops.dispatch.run import run
from transnext_ops.operators.checks import Grid, check_grid, check_not_empty, check_parameter
from transnext_ops.operators.position_bias.axes import BiasAxis, bias_axis
from transnext_ops.operators.position_bias.table import PositionBias
from transnext_ops.schema import compute_dtype
from transnext_ops.tracing import reshaped, traced, transformed


@accepts_cupy
def position_bias(
    fc1_weight: Tensor,
    fc1_bias: Tensor,
    fc2_weight: Tensor,
    fc2_bias: Tensor,
    *,
    grid: Grid,
    pool_grid: Grid,
    pretrain_grid: Grid,
    train_grid: Grid | None = None,
    train_pool_grid: Grid | None = None,
    backend: str | None = None,
) -> PositionBias:
    r"""Return the continuous position bias of a grid and its pooled grid.

    .. math::
        rel &= 8\,(query - key) / \max(pretrain\_grid - 1, 1) \\
        coord &= \mathrm{sign}(rel)\,\log_2(|rel| + 1) / \log_2 8 \\
        bias &= fc2(\mathrm{ReLU}(fc1(coord_h, coord_w)))

    with the key coordinate of a pooled cell the mean of the query coordinates in its bin.

    Parameters
    ----------
    fc1_weight : Tensor [E, 2]
        Input order (row, column).
    fc1_bias : Tensor [E]
    fc2_weight : Tensor [h, E]
    fc2_bias : Tensor [h]
    grid, pool_grid : (int, int)
        Query grid (H, W) and pooled grid (Hp, Wp); the same for global attention.
    pretrain_grid : (int, int)
        Query grid of the pre-training, which sets the unit of distance.
    train_grid, train_pool_grid : (int, int), optional
        Given both: the bias is computed on this training grid and resized bilinearly
        (align_corners=False) over keys, then over queries. Given neither: extrapolation, the
        coordinates of the grid in use.
    backend : str, optional
        Overrides the backend in force for this call.

    Returns
    -------
    PositionBias
        Its table is float32, or float64 where the parameters are.

    Raises
    ------
    TypeError, ValueError
        A parameter has the wrong type, dtype, device or shape, a grid is not a pair of positive
        ints, or one training grid is given without the other; the message names it.
    BackendError
        The backend asked for by name cannot run the call.
    """
    fc1_weight, fc1_bias, fc2_weight, fc2_bias = _check_mlp(
        fc1_weight, fc1_bias, fc2_weight, fc2_bias
    )
    rows, cols = _axes(
        grid, pool_grid, pretrain_grid, train_grid, train_pool_grid, fc1_weight.device
    )
    dtype = fc1_weight.dtype
    coords = rows.coords_in(dtype), cols.coords_in(dtype)
    arguments = (*coords, fc1_weight, fc1_bias, fc2_weight, fc2_bias)
    return _from_table(run("position_bias_table", fc1_weight, arguments, backend), rows, cols)


def bias_coordinates(
    like: Tensor,
    *,
    grid: Grid,
    pool_grid: Grid,
    pretrain_grid: Grid,
    train_grid: Grid | None = None,
    train_pool_grid: Grid | None = None,
) -> Tensor:
    """Return the coordinates at which a custom network computes the position bias.

    :func:`position_bias` is ``bias_from_values(fc2(relu(fc1(bias_coordinates(...)))), ...)``,
    without ever holding these coordinates or the hidden layer.

    Parameters
    ----------
    like : Tensor
        Says the device and the floating-point dtype of the result.
    grid, pool_grid, pretrain_grid, train_grid, train_pool_grid
        As in :func:`position_bias`.

    Returns
    -------
    Tensor [R·S, 2]
        (row, column) for every pair of distances, rows first.

    Raises
    ------
    TypeError, ValueError
        A grid is not a pair of positive ints.
    """
    rows, cols = _axes(grid, pool_grid, pretrain_grid, train_grid, train_pool_grid, like.device)
    shape = (rows.coords.shape[0], cols.coords.shape[0])
    pair = (rows.coords[:, None].expand(shape), cols.coords.expand(shape))
    return reshaped(torch.stack(pair, -1), shape[0] * shape[1], 2).to(like.dtype)


def bias_from_values(
    values: Tensor,
    *,
    grid: Grid,
    pool_grid: Grid,
    pretrain_grid: Grid,
    train_grid: Grid | None = None,
    train_pool_grid: Grid | None = None,
) -> PositionBias:
    """Return the position bias whose values a custom network computed.

    Parameters
    ----------
    values : Tensor [R·S, h]
        The bias of each head at :func:`bias_coordinates` of the same grids.
    grid, pool_grid, pretrain_grid, train_grid, train_pool_grid
        As in :func:`position_bias`.

    Returns
    -------
    PositionBias
        Its table is float32, or float64 where the values are; differentiable.

    Raises
    ------
    TypeError, ValueError
        A grid is not a pair of positive ints, or there are not as many values as coordinates.
    """
    rows, cols = _axes(grid, pool_grid, pretrain_grid, train_grid, train_pool_grid, values.device)
    shape = (rows.coords.shape[0], cols.coords.shape[0])
    if values.dim() != 2 or values.shape[0] != shape[0] * shape[1]:
        raise ValueError(
            f"values: got shape {tuple(values.shape)}, needs [R*S, h] with R*S = {shape[0]} * "
            f"{shape[1]} coordinates"
        )
    if not values.is_floating_point():
        raise TypeError(f"values: got {values.dtype}, needs a floating-point tensor")
    compute = compute_dtype(values.dtype)
    table = values.to(compute).t().unflatten(1, shape).contiguous()
    return _from_table(table, rows, cols)


def _axes(
    grid: Grid,
    pool_grid: Grid,
    pretrain_grid: Grid,
    train_grid: Grid | None,
    train_pool_grid: Grid | None,
    device: torch.device,
) -> tuple[BiasAxis, BiasAxis]:
    """Check the grids of a position bias and return its two axes."""
    grid, pool_grid = check_grid("grid", grid), check_grid("pool_grid", pool_grid)
    pretrain_grid = check_grid("pretrain_grid", pretrain_grid)
    if (train_grid is None) != (train_pool_grid is None):
        missing = "train_grid" if train_grid is None else "train_pool_grid"
        raise ValueError(f"{missing}: got None, needs a grid, since the other one is given")
    if train_grid is not None and train_pool_grid is not None:
        train_grid = check_grid("train_grid", train_grid)
        train_pool_grid = check_grid("train_pool_grid", train_pool_grid)
    rows, cols = (
        bias_axis(
            grid[axis],
            pool_grid[axis],
            pretrain_grid[axis],
            None if train_grid is None else train_grid[axis],
            None if train_pool_grid is None else train_pool_grid[axis],
            device,
        )
        for axis in (0, 1)
    )
    return rows, cols


def _from_table(table: Tensor, rows: BiasAxis, cols: BiasAxis) -> PositionBias:
    """Return the position bias of a table ``[h, R, S]`` and two axes, its rows resized now."""
    row_map = rows.positions[:, :, 0]
    if rows.weights is not None:
        table, row_map = _fold_rows(table, rows.positions, rows.weights.to(table.dtype))
    col_weights = None if cols.weights is None else cols.weights.to(table.dtype)
    # A traced graph rebuilds them.
    shared = not (traced() or transformed())
    return PositionBias(table, row_map, cols.positions, col_weights, _trusted=True, _shared=shared)


def _check_mlp(
    fc1_weight: Tensor, fc1_bias: Tensor, fc2_weight: Tensor, fc2_bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    for name, weight in (("fc1_weight", fc1_weight), ("fc2_weight", fc2_weight)):
        if not isinstance(weight, Tensor):
            raise TypeError(f"{name}: got {type(weight).__name__}, needs a torch.Tensor")
        if weight.dim() != 2:
            raise ValueError(f"{name}: got {weight.dim()} dimensions, needs 2")
        check_not_empty(name, weight, "[E, 2]" if name == "fc1_weight" else "[h, E]")
    hidden, heads = fc1_weight.shape[0], fc2_weight.shape[0]

    def parameter(name: str, tensor: Tensor, layout: str, sizes: tuple[int, ...]) -> Tensor:
        return check_parameter(name, tensor, layout, sizes, "fc1_weight", fc1_weight)

    return (
        parameter("fc1_weight", fc1_weight, "[E, 2]", (hidden, 2)),
        parameter("fc1_bias", fc1_bias, "[E]", (hidden,)),
        parameter("fc2_weight", fc2_weight, "[h, E]", (heads, hidden)),
        parameter("fc2_bias", fc2_bias, "[h]", (heads,)),
    )


def _fold_rows(table: Tensor, index: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Resize the table's rows: one row per (query row, pooled row), and the map to it."""
    taps = index.shape[2]
    flat = (index.shape[0] * index.shape[1], taps)
    flat_index, flat_weights = reshaped(index, *flat), reshaped(weights, *flat)
    folded = table.index_select(1, flat_index[:, 0]) * flat_weights[:, 0, None]
    for tap in range(1, taps):
        folded = folded + table.index_select(1, flat_index[:, tap]) * flat_weights[:, tap, None]
    row_map = torch.arange(index.shape[0] * index.shape[1], dtype=torch.int32, device=table.device)
    return folded, row_map.view(index.shape[:2])
