"""The launch plans of the CUDA kernels: pure functions that need no GPU and no CUDA build."""

from __future__ import annotations

import math

import pytest

_cpp = pytest.importorskip("transnext_ops._cpp")

SIZES = [
    (8, 72, (56, 56), (7, 7)),
    (1, 1, (1, 1), (1, 1)),
    (3, 33, (5, 7), (5, 7)),
    (2, 40, (1, 100), (1, 3)),
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_gelu_pool_plans_cover_every_output(sizes: tuple) -> None:
    batch, channels, grid, pool_grid = sizes
    blocks, threads, shared = _cpp.gelu_pool_plan(batch, channels, grid, pool_grid)
    assert blocks == (batch * math.prod(pool_grid) * math.ceil(channels / 32), 1, 1)
    assert threads[0] == 32
    assert threads[1] in (1, 2, 4, 8)
    assert threads[2] == 1
    assert shared == 0
    blocks, threads, shared = _cpp.gelu_pool_backward_plan(batch, channels, grid)
    assert blocks == (batch * math.ceil(math.prod(grid) / 8) * math.ceil(channels / 32), 1, 1)
    assert threads == (32, 8, 1)
    assert shared == 0


def test_threads_of_a_bin_are_no_more_than_its_cells_need() -> None:
    assert _cpp.gelu_pool_plan(1, 32, (56, 56), (7, 7))[1] == (32, 8, 1)
    assert _cpp.gelu_pool_plan(1, 32, (4, 4), (4, 4))[1] == (32, 4, 1)


def test_empty_tensors_need_no_blocks() -> None:
    assert _cpp.gelu_pool_plan(0, 32, (4, 4), (2, 2))[0][0] == 0
    assert _cpp.gelu_pool_backward_plan(2, 0, (4, 4))[0][0] == 0


def test_the_largest_tensors_stay_within_the_grid_limits() -> None:
    blocks, _, _ = _cpp.gelu_pool_plan(2**20, 2**12, (64, 64), (64, 64))
    assert blocks == (2**31 - 1, 1, 1)


def test_the_plan_needs_sensible_grids() -> None:
    with pytest.raises(ValueError, match=r"gelu_pool_plan: pool_grid is \(0, 1\)"):
        _cpp.gelu_pool_plan(1, 1, (1, 1), (0, 1))
