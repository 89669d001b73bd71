"""The continuous position bias: the direct form, the table form, and the facts both must show."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import transnext_reference as reference

seeds = st.integers(0, 2**32 - 1)
grids = st.tuples(st.integers(1, 6), st.integers(1, 6))


def random_mlp(seed: int, heads: int = 2, hidden: int = 5) -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(seed)
    shapes = (hidden, 2), (hidden,), (heads, hidden), (heads,)
    return tuple(generator.standard_normal(shape) for shape in shapes)


def looped_coordinate(i: int, a: int, size: int, bins: int, pretrain: int) -> float:
    members = range(a * size // bins, math.ceil((a + 1) * size / bins))
    relative = (i - sum(members) / len(members)) / max(pretrain - 1, 1) * 8
    return math.copysign(math.log2(abs(relative) + 1) / 3, relative)


@given(grid=grids, pool_grid=grids, pretrain_grid=grids, seed=seeds)
def test_extrapolation_is_the_formula(
    grid: tuple[int, int], pool_grid: tuple[int, int], pretrain_grid: tuple[int, int], seed: int
) -> None:
    mlp = w1, b1, w2, b2 = random_mlp(seed)
    dense = reference.position_bias(
        *mlp, grid=grid, pool_grid=pool_grid, pretrain_grid=pretrain_grid
    )
    expected = np.zeros((2, math.prod(grid), math.prod(pool_grid)))
    for i, j, a, b in np.ndindex(*grid, *pool_grid):
        row = looped_coordinate(i, a, grid[0], pool_grid[0], pretrain_grid[0])
        column = looped_coordinate(j, b, grid[1], pool_grid[1], pretrain_grid[1])
        hidden = [max(0.0, w[0] * row + w[1] * column + c) for w, c in zip(w1, b1, strict=True)]
        n, m = i * grid[1] + j, a * pool_grid[1] + b
        expected[:, n, m] = w2 @ hidden + b2
    np.testing.assert_allclose(dense, expected, rtol=1e-11, atol=1e-12)


def index_map(coordinates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values in order of appearance, and the map to them."""
    places: dict[float, int] = {}
    indices = [places.setdefault(value, len(places)) for value in coordinates.ravel().tolist()]
    return np.array(list(places)), np.array(indices, dtype=np.int32).reshape(coordinates.shape)


@given(grid=grids, pool_grid=grids, pretrain_grid=grids, seed=seeds)
def test_table_and_maps_give_the_extrapolated_bias(
    grid: tuple[int, int], pool_grid: tuple[int, int], pretrain_grid: tuple[int, int], seed: int
) -> None:
    mlp = random_mlp(seed)
    sizes = {"grid": grid, "pool_grid": pool_grid, "pretrain_grid": pretrain_grid}
    (rows, row_map), (columns, col_map) = (
        index_map(reference.axis_coordinates(*axis))
        for axis in zip(grid, pool_grid, pretrain_grid, strict=True)
    )
    table = reference.position_bias_table(rows, columns, *mlp)
    assert table.shape == (2, rows.size, columns.size)
    dense = reference.expand_position_bias(table, row_map, col_map[..., None])
    direct = reference.position_bias(*mlp, **sizes)
    np.testing.assert_allclose(dense, direct, rtol=1e-12, atol=1e-12)
    tabulated = reference.tabulated_position_bias(*mlp, **sizes)
    np.testing.assert_allclose(tabulated, direct, rtol=1e-12, atol=1e-12)


def looped_taps(o: int, size: int, source: int) -> list[tuple[int, float]]:
    """The two (source pixel, weight) of output pixel o of a bilinear resize of one axis."""
    position = max((o + 0.5) * source / size - 0.5, 0.0)
    lower = min(int(position), source - 1)
    return [(lower, 1 - (position - lower)), (min(lower + 1, source - 1), position - lower)]


@given(
    grid=grids, pool_grid=grids, train_grid=grids, train_pool_grid=grids,
    pretrain_grid=grids, seed=seeds,
)  # fmt: skip
def test_table_and_maps_give_the_interpolated_bias(
    grid: tuple[int, int],
    pool_grid: tuple[int, int],
    train_grid: tuple[int, int],
    train_pool_grid: tuple[int, int],
    pretrain_grid: tuple[int, int],
    seed: int,
) -> None:
    """Rows resized inside the table, columns by four weighted taps: the same as two resizes."""
    mlp = random_mlp(seed)
    (rows, row_map), (columns, col_map) = (
        index_map(reference.axis_coordinates(*axis))
        for axis in zip(train_grid, train_pool_grid, pretrain_grid, strict=True)
    )
    table = reference.position_bias_table(rows, columns, *mlp)
    (height, width), (pool_height, pool_width) = grid, pool_grid

    resized = np.zeros((2, height * pool_height, columns.size))
    for i, a in np.ndindex(height, pool_height):
        for source_i, weight_i in looped_taps(i, height, train_grid[0]):
            for source_a, weight_a in looped_taps(a, pool_height, train_pool_grid[0]):
                row = table[:, row_map[source_i, source_a]]
                resized[:, i * pool_height + a] += weight_i * weight_a * row
    own_row_map = np.arange(height * pool_height).reshape(height, pool_height)
    own_col_map = np.zeros((width, pool_width, 4), dtype=np.int32)
    col_weights = np.zeros((width, pool_width, 4))
    for j, b in np.ndindex(width, pool_width):
        taps = [
            (col_map[source_j, source_b], weight_j * weight_b)
            for source_j, weight_j in looped_taps(j, width, train_grid[1])
            for source_b, weight_b in looped_taps(b, pool_width, train_pool_grid[1])
        ]
        own_col_map[j, b], col_weights[j, b] = zip(*taps, strict=True)

    sizes = {
        "grid": grid,
        "pool_grid": pool_grid,
        "pretrain_grid": pretrain_grid,
        "train_grid": train_grid,
        "train_pool_grid": train_pool_grid,
    }
    dense = reference.expand_position_bias(resized, own_row_map, own_col_map, col_weights)
    direct = reference.position_bias(*mlp, **sizes)
    np.testing.assert_allclose(dense, direct, rtol=1e-11, atol=1e-12)
    tabulated = reference.tabulated_position_bias(*mlp, **sizes)
    np.testing.assert_allclose(tabulated, direct, rtol=1e-12, atol=1e-12)


def test_interpolation_from_the_same_grid_is_extrapolation() -> None:
    mlp = random_mlp(0)
    sizes = {"grid": (5, 6), "pool_grid": (2, 3), "pretrain_grid": (4, 4)}
    same = reference.position_bias(*mlp, **sizes, train_grid=(5, 6), train_pool_grid=(2, 3))
    np.testing.assert_array_equal(same, reference.position_bias(*mlp, **sizes))


def test_bilinear_matrix() -> None:
    np.testing.assert_array_equal(reference.bilinear_matrix(4, 4), np.eye(4))
    doubled = [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    np.testing.assert_allclose(reference.bilinear_matrix(4, 2), doubled, rtol=1e-15)
    halved = [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]
    np.testing.assert_allclose(reference.bilinear_matrix(2, 4), halved, rtol=1e-15)
    np.testing.assert_array_equal(reference.bilinear_matrix(3, 1), np.ones((3, 1)))
    for size in range(1, 9):
        for source in range(1, 9):
            matrix = reference.bilinear_matrix(size, source)
            np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-15)
            assert (matrix >= 0).all()


def test_coordinates_of_the_training_grid() -> None:
    """Odd in the distance, one at 7 / 8 of the training grid's extent, zero where they meet."""
    coordinates = reference.axis_coordinates(9, 9, 9)
    np.testing.assert_allclose(coordinates, -coordinates.T)
    assert coordinates[7, 0] == pytest.approx(1.0)
    assert (np.diag(coordinates) == 0).all()
    np.testing.assert_allclose(
        reference.axis_coordinates(2, 1, 1), [[-math.log2(5) / 3], [math.log2(5) / 3]]
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_grid": (2, 2)}, "train_grid, train_pool_grid: got .* and None, needs both"),
        ({"pretrain_grid": (0, 2)}, "pretrain_grid: got"),
        ({"fc2_weight": np.zeros((2, 4))}, "fc2_weight: got shape"),
        ({"fc1_weight": np.zeros((5, 3))}, "fc1_weight: got shape"),
    ],
)
def test_wrong_arguments_are_named(changed: dict[str, object], message: str) -> None:
    names = ("fc1_weight", "fc1_bias", "fc2_weight", "fc2_bias")
    arguments = dict(zip(names, random_mlp(0), strict=True))
    arguments |= {"grid": (4, 4), "pool_grid": (2, 2), "pretrain_grid": (4, 4)}
    for function in (reference.position_bias, reference.tabulated_position_bias):
        function(**arguments)
        with pytest.raises(ValueError, match=message):
            function(**{**arguments, **changed})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"row_map": np.array([[3]])}, "row_map: got values 3 to 3, needs 0 to 2"),
        ({"col_map": np.array([[[-1]]])}, "col_map: got values -1 to -1, needs 0 to 3"),
        ({"row_map": np.array([[0.0]])}, "row_map: got dtype float64, needs integers"),
        ({"col_map": np.zeros((1, 1, 2), int)}, "col_map: got shape"),
        ({"col_weights": np.ones((1, 1, 2))}, "col_weights: got shape"),
    ],
)
def test_maps_that_do_not_fit_are_named(changed: dict[str, object], message: str) -> None:
    arguments = {
        "table": np.zeros((2, 3, 4)),
        "row_map": np.zeros((1, 1), int),
        "col_map": np.zeros((1, 1, 1), int),
    }
    assert reference.expand_position_bias(**arguments).shape == (2, 1, 1)
    with pytest.raises(ValueError, match=message):
        reference.expand_position_bias(**{**arguments, **changed})
