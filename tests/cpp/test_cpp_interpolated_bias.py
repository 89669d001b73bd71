"""Interpolated bias tables wide enough to be read by whole vectors, against the reference."""

from __future__ import annotations

import pytest
import torch

import transnext_ops as ops
from strategies import Numbers, compute_dtype
from tolerances import assert_agrees

_cpp = pytest.importorskip("transnext_ops._cpp")
HEADS, DIM = 2, 24

# grid, pooled grid, training grid, training pooled grid
SIZES = {
    "wider": ((3, 40), (2, 5), (20, 20), (4, 4)),
    "rows that end inside a vector": ((5, 37), (2, 3), (32, 32), (4, 4)),
    "as trained in one axis": ((20, 33), (4, 4), (20, 20), (4, 4)),
    "narrower: columns further apart": ((4, 9), (2, 2), (28, 28), (7, 7)),
    "rows shorter than a vector": ((9, 5), (3, 2), (16, 16), (4, 4)),
    # Keys enough for a tile unit, and more than are handled at a time.
    "wider, many keys": ((4, 32), (4, 25), (20, 20), (10, 10)),
    "rows that end inside a vector, many keys": ((5, 23), (5, 20), (16, 16), (16, 16)),
}


@pytest.fixture(params=_cpp.available_cpu_levels())
def level(request):
    _cpp.set_cpu_level(request.param)
    yield request.param
    _cpp.set_cpu_level(None)


def mixed(bias: ops.PositionBias) -> ops.PositionBias:
    """Weights that are no products of one for the query and one for the pooled column."""
    weights = bias.col_weights.roll(1, dims=0)
    return ops.PositionBias(bias.table, bias.row_map, bias.col_map, weights)


def mirrored(bias: ops.PositionBias) -> ops.PositionBias:
    """Pooled columns from the last to the first."""
    return ops.PositionBias(
        bias.table, bias.row_map, bias.col_map.flip(1), bias.col_weights.flip(1)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("change", [mixed, mirrored])
def test_tables_that_no_resize_made_agree_with_the_reference(level, change, dtype):
    check_agreement(SIZES["wider, many keys"], dtype, change)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_values_and_gradients_agree_with_the_reference(level, sizes, dtype):
    check_agreement(sizes, dtype, lambda bias: bias)


def check_agreement(sizes, dtype, change):
    grid, pool_grid, train_grid, train_pool_grid = sizes
    numbers = Numbers(11)
    compute = compute_dtype(dtype)
    mlp = [
        numbers.parameter(*shape, dtype=compute)
        for shape in ((16, 2), (16,), (HEADS, 16), (HEADS,))
    ]
    made = ops.position_bias(
        *mlp, grid=grid, pool_grid=pool_grid, pretrain_grid=(16, 16), train_grid=train_grid,
        train_pool_grid=train_pool_grid, backend="torch",
    )  # fmt: skip
    bias = change(made)
    length, pooled = grid[0] * grid[1], pool_grid[0] * pool_grid[1]
    inputs = [
        numbers.activation(2, count, HEADS, DIM, dtype=dtype)
        for count in (length, length, length, pooled, pooled)
    ]
    scale = numbers.parameter(HEADS, dtype=dtype).abs() + 1

    def run(backend, cast):
        table = bias.table.detach().to(cast or compute).requires_grad_()
        weights = None if bias.col_weights is None else bias.col_weights.to(cast or compute)
        leaves = [x.to(cast or dtype).requires_grad_() for x in inputs]
        out = ops.aggregated_attention(
            *leaves, grid=grid, pool_grid=pool_grid, window_size=3, scale=scale.to(cast or compute),
            pool_bias=ops.PositionBias(table, bias.row_map, bias.col_map, weights), backend=backend,
        )  # fmt: skip
        gradients = torch.autograd.grad(out.double().square().sum(), [*leaves, table])
        return [out, *gradients]

    expected = run("reference", torch.float64)
    names = ("out", "q", "k", "v", "k_pool", "v_pool", "table")
    for name, ours, truth in zip(names, run("cpp", None), expected, strict=True):
        work = 9 + pooled + DIM + (2 * length if name.endswith("pool") or name == "table" else 0)
        assert_agrees(
            name, ours, truth.detach().numpy(), dtype=dtype, work=work, gradient=name != "out"
        )
