"""The launch plans of the CUDA kernels: pure functions that need no GPU and no CUDA build."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.dlpack import to_dlpack

_cpp = pytest.importorskip("transnext_ops._cpp")

ARCHITECTURE = 80

SIZES = [
    (8, 72, (56, 56), (7, 7)),
    (1, 1, (1, 1), (1, 1)),
    (3, 33, (5, 7), (5, 7)),
    (2, 40, (1, 100), (1, 3)),
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_gelu_pool_plans_cover_every_output(sizes: tuple) -> None:
    batch, channels, grid, pool_grid = sizes
    tiles = math.ceil(channels / 96)  # of two channels for each of 48 lanes
    lanes = math.ceil(math.ceil(channels / 2) / tiles)
    blocks, threads, shared = _cpp.gelu_pool_plan(batch, channels, grid, pool_grid)
    assert blocks == (batch * math.prod(pool_grid) * tiles, 1, 1)
    assert threads[0] == lanes
    assert threads[1] in (1, 2, 4, 8)
    assert threads[2] == 1
    assert shared == 0
    blocks, threads, shared = _cpp.gelu_pool_backward_plan(batch, channels, grid)
    assert blocks == (batch * math.ceil(math.prod(grid) / 8) * tiles, 1, 1)
    assert threads == (lanes, 8, 1)
    assert shared == 0


def test_threads_of_a_bin_are_no_more_than_its_cells_need() -> None:
    assert _cpp.gelu_pool_plan(1, 64, (56, 56), (7, 7))[1] == (32, 8, 1)
    assert _cpp.gelu_pool_plan(1, 64, (4, 4), (4, 4))[1] == (32, 4, 1)


def test_empty_tensors_need_no_blocks() -> None:
    assert _cpp.gelu_pool_plan(0, 32, (4, 4), (2, 2))[0][0] == 0
    assert _cpp.gelu_pool_backward_plan(2, 0, (4, 4))[0][0] == 0


def test_the_largest_tensors_stay_within_the_grid_limits() -> None:
    blocks, _, _ = _cpp.gelu_pool_plan(2**20, 2**12, (64, 64), (64, 64))
    assert blocks == (2**31 - 1, 1, 1)


def test_the_plan_needs_sensible_grids() -> None:
    with pytest.raises(ValueError, match=r"gelu_pool_plan: pool_grid is \(0, 1\)"):
        _cpp.gelu_pool_plan(1, 1, (1, 1), (0, 1))


def record(operator: Callable[..., None], tensors: list[Tensor | None], *sizes: Any) -> Any:
    """Return what a bound operator would launch."""
    capsules = [None if tensor is None else to_dlpack(tensor) for tensor in tensors]
    return _cpp.record_launches(operator, (*capsules, *sizes, 1, 0), ARCHITECTURE)


def kernels(launches: Any) -> list[tuple]:
    """Return (kernel, blocks, threads, shared bytes) of every launch."""
    return [
        (name, blocks[0], threads[:2], shared)
        for name, blocks, threads, shared, _ in launches.kernels
    ]


CONV_SIZES = [(2, 70, (56, 56)), (1, 1, (1, 1)), (3, 64, (17, 7)), (40, 32, (64, 64))]


@pytest.mark.parametrize("sizes", CONV_SIZES, ids=str)
def test_conv_glu_plans_cover_every_output(sizes: tuple) -> None:
    batch, hidden, grid = sizes
    length, strips = math.prod(grid), min(4, math.ceil(grid[1] / 4))
    tiles = batch * math.ceil(grid[0] / 16) * math.ceil(grid[1] / (4 * strips))
    x, out = torch.empty(batch, length, 2 * hidden), torch.empty(batch, length, hidden)
    weight, bias = torch.empty(hidden, 1, 3, 3), torch.empty(hidden)
    forward = record(_cpp.conv_glu, [x, weight, bias, out], grid)
    blocks = tiles * math.ceil(hidden / 64)
    assert kernels(forward) == [("conv_glu_forward<float>", blocks, (32, strips), 0)]
    assert forward.workspace == 0

    inputs = [out, x, weight, bias]
    backward = record(_cpp.conv_glu_backward, [*inputs, x, weight, bias], grid)
    workers = min(tiles, 512)
    blocks = workers * math.ceil(hidden / 32)
    gradients = ("conv_glu_backward<float>", blocks, (32, strips), 0)
    assert kernels(backward) == [
        gradients,
        ("sum_partials<float>", math.ceil(9 * hidden / 32), (32, 8), 0),
        ("sum_partials<float>", math.ceil(hidden / 32), (32, 8), 0),
    ]
    assert backward.workspace == workers * 10 * hidden
    # The parameters' gradients need the workspace, x's does not.
    backward = record(_cpp.conv_glu_backward, [*inputs, x, None, None], grid)
    assert kernels(backward) == [gradients]
    assert backward.workspace == 0


def test_empty_batches_give_zero_gradients_of_parameters() -> None:
    x, weight, bias = torch.empty(0, 4, 6), torch.empty(3, 1, 3, 3), torch.empty(3)
    tensors = [x[..., :3], x, weight, bias, x, weight, bias]
    backward = record(_cpp.conv_glu_backward, tensors, (2, 2))
    assert [kernel[0] for kernel in kernels(backward)] == ["sum_partials<float>"] * 2
    assert backward.workspace == 0


@pytest.mark.parametrize("sizes", [(3, 512, 100, 100), (1, 16, 1, 1), (9, 600, 13, 5)], ids=str)
def test_position_bias_table_plans_cover_every_position(sizes: tuple) -> None:
    heads, hidden, rows, columns = sizes
    coordinates = [torch.empty(rows), torch.empty(columns)]
    mlp = [torch.empty(hidden, 2), torch.empty(hidden), torch.empty(heads, hidden)]
    bias, table = torch.empty(heads), torch.empty(heads, rows, columns)
    chunks = math.ceil(heads / 4)
    forward = record(_cpp.position_bias_table, [*coordinates, *mlp, bias, table])
    blocks = math.ceil(rows * columns / 128) * chunks
    assert kernels(forward) == [("position_bias_table_forward<float>", blocks, (32, 8), 0)]

    backward = record(_cpp.position_bias_table_backward, [table, *coordinates, *mlp, *mlp, bias])
    slices = min(math.ceil(rows * columns / 64), 256)
    blocks = slices * chunks * math.ceil(hidden / 128)
    assert kernels(backward)[0] == (
        "position_bias_table_backward<float>", blocks, (128, 1), 0
    )  # fmt: skip
    assert [kernel[0] for kernel in kernels(backward)[1:]] == ["sum_partials<float>"] * 4
    assert backward.workspace == slices * (heads * (hidden + 1) + 3 * hidden * chunks)


def window_tensors(batch: int, heads: int, grid: tuple, channels: int, window: int) -> list[Tensor]:
    """Return queries, keys and cells."""
    tokens = torch.empty(1).expand(batch, heads, math.prod(grid), channels)
    return [tokens, tokens, torch.empty(1).expand(*tokens.shape[:3], window**2)]


def test_window_plans_of_the_published_sizes() -> None:
    q, k, cells = window_tensors(2, 3, (56, 56), 24, 3)
    tiles = 2 * 3 * 7 * 4  # of 8 x 16 queries
    (name, blocks, threads, _), = kernels(
        record(_cpp.window_qk, [q, k, None, cells], (56, 56), 3)
    )  # fmt: skip
    assert (name, blocks, threads) == ("window_correlate<float>", tiles, (256, 1))
    bias = torch.empty(3, 9)
    backward = record(_cpp.window_qk_backward, [cells, q, k, q, k, bias], (56, 56), 3)
    names = ["window_gather", "window_scatter", "window_bias_sums", "sum_partials"]
    assert [kernel[0] for kernel in kernels(backward)] == [f"{name}<float>" for name in names]
    assert backward.workspace == math.ceil(2 * 56 * 56 / 2048) * 3 * 9
    backward = record(_cpp.window_av_backward, [q, cells, k, cells, None], (56, 56), 3)
    assert [kernel[0] for kernel in kernels(backward)] == ["window_correlate<float>"]


@pytest.mark.parametrize("channels", [1, 8, 24, 33, 128, 500, 3000])
@pytest.mark.parametrize(("grid", "window"), [((56, 56), 3), ((1, 9), 4), ((70, 3), 64)])
def test_window_plans_fit_into_shared_memory(grid: tuple, window: int, channels: int) -> None:
    q, k, cells = window_tensors(1, 1, grid, channels, window)
    forward = record(_cpp.window_qk, [q, k, None, cells], grid, window)
    backward = record(_cpp.window_qk_backward, [cells, q, k, q, k, None], grid, window)
    for _, blocks, threads, shared in kernels(forward) + kernels(backward):
        assert blocks > 0
        assert threads == (256, 1)
        assert 0 < shared <= 48 * 1024


def test_too_many_channels_for_a_window_are_named() -> None:
    q, k, cells = window_tensors(1, 1, (1, 1), 7000, 1)
    with pytest.raises(ValueError, match="window_av: the CUDA kernels take at most 6140 channels"):
        record(_cpp.window_qk, [q, k, None, cells], (1, 1), 1)
