"""Gradients of the position bias's network in the reference against finite differences."""

from __future__ import annotations

from functools import partial

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

import transnext_reference as reference
from finite_differences import check_gradients

KINK_STEP = 1e-6

Grid = tuple[int, int]

extents = st.integers(1, 5)
seeds = st.integers(0, 2**32 - 1)


def mlp_inputs(generator: np.random.Generator, hidden: int, heads: int) -> dict[str, np.ndarray]:
    return {
        "fc1_weight": generator.standard_normal((hidden, 2)),
        "fc1_bias": generator.standard_normal(hidden),
        "fc2_weight": generator.standard_normal((heads, hidden)),
        "fc2_bias": generator.standard_normal(heads),
    }


def assume_no_kink(mlp: dict[str, np.ndarray], rows: np.ndarray, columns: np.ndarray) -> None:
    """Reject points where a finite difference could step over a kink of ReLU.

    A step of 2 h along a direction with entries below 5 moves u = W1 coord + b1 by less than
    10 h (1 + |row| + |column|).
    """
    row, column = np.meshgrid(rows, columns)
    u = np.stack([row, column], axis=-1) @ mlp["fc1_weight"].T + mlp["fc1_bias"]
    reach = 10 * KINK_STEP * (1 + np.abs(row) + np.abs(column))
    assume((np.abs(u) > reach[..., None]).all())


@given(rows=st.integers(1, 5), columns=st.integers(1, 5), seed=seeds)
def test_position_bias_table(rows: int, columns: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    mlp = mlp_inputs(generator, hidden=4, heads=2)
    row_coords, col_coords = generator.uniform(-1, 1, rows), generator.uniform(-1, 1, columns)
    assume_no_kink(mlp, row_coords, col_coords)
    check_gradients(
        partial(reference.position_bias_table, row_coords, col_coords),
        lambda d_table, **weights: reference.position_bias_table_backward(
            d_table, row_coords, col_coords, **weights
        ),
        mlp,
        seed=seed,
        step=KINK_STEP,
    )


@st.composite
def grid_pairs(draw: st.DrawFn) -> tuple[Grid, Grid]:
    """A grid, and one of pooled keys that is not larger."""
    grid = draw(st.tuples(extents, extents))
    return grid, (draw(st.integers(1, grid[0])), draw(st.integers(1, grid[1])))


@given(
    used=grid_pairs(),
    trained=st.none() | grid_pairs(),
    pretrain_grid=st.tuples(extents, extents),
    seed=seeds,
)
def test_position_bias(
    used: tuple[Grid, Grid], trained: tuple[Grid, Grid] | None, pretrain_grid: Grid, seed: int
) -> None:
    grids = {"grid": used[0], "pool_grid": used[1], "pretrain_grid": pretrain_grid}
    if trained is not None:
        grids |= {"train_grid": trained[0], "train_pool_grid": trained[1]}
    mlp = mlp_inputs(np.random.default_rng(seed), hidden=4, heads=2)
    rows, columns = (
        reference.axis_coordinates(*sizes).reshape(-1)
        for sizes in zip(*(trained or used), pretrain_grid, strict=True)
    )
    assume_no_kink(mlp, rows, columns)
    check_gradients(
        partial(reference.position_bias, **grids),
        partial(reference.position_bias_backward, **grids),
        mlp,
        seed=seed,
        step=KINK_STEP,
    )
