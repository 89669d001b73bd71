"""The launch plans of the CUDA kernels: pure functions that need no GPU and no CUDA build.

Attention's are in ``test_cuda_launch_plan_attention.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from launch_recording import STORAGE, kernels, of_shape, record

_cpp = pytest.importorskip("transnext_ops._cpp")

SIZES = [
    (8, 72, (56, 56), (7, 7)),
    (1, 1, (1, 1), (1, 1)),
    (3, 33, (5, 7), (5, 7)),
    (2, 40, (1, 100), (1, 3)),
]


def pool_plan(batch: int, channels: int, grid: tuple, pool_grid: tuple) -> tuple:
    """Return grid, block and shared bytes of the one kernel of gelu_pool."""
    x = of_shape(batch, math.prod(grid), channels)
    out = of_shape(batch, math.prod(pool_grid), channels)
    ((_, *plan, _),) = record(_cpp.gelu_pool, [x, out], grid, pool_grid).kernels
    return tuple(plan)


def pool_backward_plan(batch: int, channels: int, grid: tuple, pool_grid: tuple) -> tuple:
    """Return grid, block and shared bytes of the one kernel of gelu_pool's backward."""
    x = of_shape(batch, math.prod(grid), channels)
    d_out = of_shape(batch, math.prod(pool_grid), channels)
    ((_, *plan, _),) = record(_cpp.gelu_pool_backward, [d_out, x, x], grid, pool_grid).kernels
    return tuple(plan)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_gelu_pool_plans_cover_every_output(sizes: tuple) -> None:
    batch, channels, grid, pool_grid = sizes
    tiles = math.ceil(channels / 80)  # of two channels for each of 40 lanes
    lanes = math.ceil(math.ceil(channels / 2) / tiles)
    blocks, threads, shared = pool_plan(batch, channels, grid, pool_grid)
    assert threads[0] == lanes
    assert threads[1] in (1, 2, 4, 8)
    assert threads[1] * threads[2] == 8
    assert blocks == (math.ceil(batch * math.prod(pool_grid) / threads[2]) * tiles, 1, 1)
    assert shared == 0
    blocks, threads, shared = pool_backward_plan(*sizes)
    assert blocks == (batch * grid[0] * math.ceil(grid[1] / 128) * tiles, 1, 1)
    assert threads == (lanes, 8, 1)
    assert shared == 0


def test_threads_of_a_bin_are_no_more_than_its_cells_need() -> None:
    assert pool_plan(1, 64, (56, 56), (7, 7))[1] == (32, 8, 1)
    assert pool_plan(1, 64, (28, 28), (7, 7))[1] == (32, 4, 2)
    assert pool_plan(1, 64, (14, 14), (7, 7))[1] == (32, 1, 8)
    # Large batches have bins enough for all blocks.
    assert pool_plan(64, 64, (56, 56), (7, 7))[1] == (32, 4, 2)
    assert pool_plan(1024, 64, (56, 56), (7, 7))[1] == (32, 1, 8)


def test_empty_tensors_need_no_kernel() -> None:
    x, out = of_shape(0, 16, 32), of_shape(0, 4, 32)
    assert record(_cpp.gelu_pool, [x, out], (4, 4), (2, 2)).kernels == []
    assert record(_cpp.gelu_pool_backward, [out, x, x], (4, 4), (2, 2)).kernels == []


def test_the_largest_tensors_stay_within_the_grid_limits() -> None:
    blocks, _, _ = pool_plan(2**20, 2**12, (64, 64), (64, 64))
    assert blocks == (2**31 - 1, 1, 1)


def test_the_plan_needs_sensible_grids() -> None:
    with pytest.raises(ValueError, match=r"gelu_pool: pool_grid is \(0, 1\)"):
        pool_plan(1, 1, (1, 1), (0, 1))


CONV_SIZES = [(2, 70, (56, 56)), (1, 1, (1, 1)), (3, 64, (17, 7)), (40, 32, (64, 64))]


@pytest.mark.parametrize("sizes", CONV_SIZES, ids=str)
def test_conv_glu_plans_cover_every_output(sizes: tuple) -> None:
    batch, hidden, grid = sizes
    length, strips = math.prod(grid), batch * math.ceil(grid[0] / 16) * math.ceil(grid[1] / 4)
    warps = min(4, strips)
    groups = math.ceil(strips / warps)
    x, out = torch.empty(batch, length, 2 * hidden), torch.empty(batch, length, hidden)
    weight, bias = torch.empty(hidden, 1, 3, 3), torch.empty(hidden)
    x_bias = torch.empty(2 * hidden)
    forward = record(_cpp.conv_glu, [x, weight, bias, x_bias, out], grid)
    blocks = groups * math.ceil(hidden / 64)
    assert kernels(forward) == [("conv_glu_forward<float>", blocks, (32, warps), 0)]
    assert forward.workspace == 0

    inputs = [out, x, weight, bias, x_bias]
    backward = record(_cpp.conv_glu_backward, [*inputs, x, weight, bias, x_bias], grid)
    workers = min(groups, 512)
    assert backward.kernels[0][1] == (math.ceil(hidden / 32), workers, 1)
    blocks = math.ceil(hidden / 32)
    gradients = ("conv_glu_backward<float>", blocks, (32, warps), 0)
    assert kernels(backward) == [
        gradients,
        ("sum_partials<float>", math.ceil(9 * hidden / 32), (32, 8), 0),
        ("sum_partials<float>", math.ceil(hidden / 32), (32, 8), 0),
        ("sum_partials<float>", math.ceil(2 * hidden / 32), (32, 8), 0),
    ]
    assert backward.workspace == workers * 12 * hidden
    # The parameters' gradients need the workspace, x's does not.
    backward = record(_cpp.conv_glu_backward, [*inputs, x, weight, bias, None], grid)
    assert backward.workspace == workers * 10 * hidden
    backward = record(_cpp.conv_glu_backward, [*inputs, x, None, None, None], grid)
    assert kernels(backward) == [gradients]
    assert backward.workspace == 0


def test_conv_glu_refuses_strides_that_its_kernels_do_not_count() -> None:
    weight, out = torch.empty(3, 1, 3, 3), torch.empty(1, 2, 3, dtype=torch.float16)
    memory = torch.empty(2**29 + 6, dtype=torch.float16)  # a gigabyte that nobody touches
    x = memory.as_strided((1, 2, 6), (2**29 + 6, 2**29, 1))
    with pytest.raises(
        ValueError, match="x has a stride of 536870912 elements from token to token"
    ):
        record(_cpp.conv_glu, [x, weight, None, None, out], (1, 2))


def test_conv_glu_refuses_more_strips_than_its_kernels_number() -> None:
    one = torch.empty(1, dtype=torch.float16)
    x, out = (one.as_strided((2**31, 1, channels), (0, 0, 0)) for channels in (6, 3))
    with pytest.raises(
        ValueError, match="fewer than 2147483648 strips of 16x4 tokens, got 2147483648"
    ):
        record(_cpp.conv_glu, [x, torch.empty(3, 1, 3, 3), None, None, out], (1, 1))


def test_empty_batches_give_zero_gradients_of_parameters() -> None:
    x, weight, bias = torch.empty(0, 4, 6), torch.empty(3, 1, 3, 3), torch.empty(3)
    x_bias = torch.empty(6)
    tensors = [x[..., :3], x, weight, bias, x_bias, x, weight, bias, x_bias]
    backward = record(_cpp.conv_glu_backward, tensors, (2, 2))
    assert [kernel[0] for kernel in kernels(backward)] == ["sum_partials<float>"] * 3
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

    backward = record(
        _cpp.position_bias_table_backward, [table, *coordinates, *mlp, bias, *mlp, bias]
    )
    slices = min(math.ceil(rows * columns / 64), 256)
    blocks = slices * chunks * math.ceil(hidden / 128)
    assert kernels(backward)[0] == (
        "position_bias_table_backward<float>", blocks, (128, 1), 0
    )  # fmt: skip
    assert [kernel[0] for kernel in kernels(backward)[1:]] == ["sum_partials<float>"] * 4
    assert backward.workspace == slices * (heads * (hidden + 1) + 3 * hidden * chunks)


def window_tensors(batch: int, heads: int, grid: tuple, channels: int, window: int) -> list[Tensor]:
    """Return queries, keys and cells."""
    tokens = of_shape(batch, heads, math.prod(grid), channels)
    return [tokens, tokens, of_shape(*tokens.shape[:3], window**2)]


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


def test_a_type_without_kernels_is_named() -> None:
    message = "tensors are float64, the CUDA kernels take float32, float16 and bfloat16"
    x, out = (of_shape(1, size, 8, dtype=torch.float64) for size in (4, 1))
    with pytest.raises(ValueError, match=f"gelu_pool_forward: {message}"):
        record(_cpp.gelu_pool, [x, out], (2, 2), (1, 1))


def huge_launches() -> Iterator[tuple[str, Any]]:
    """Yield launches of more blocks than a grid can have."""
    batch, grid, hidden = 2**30, (56, 56), 384
    half = of_shape(batch, 56 * 56, hidden)
    pooled = of_shape(batch, 49, hidden)
    yield "gelu_pool forward", record(_cpp.gelu_pool, [half, pooled], grid, (7, 7))
    yield "gelu_pool backward", record(_cpp.gelu_pool_backward, [pooled, half, half], grid, (7, 7))
    q, k, cells = window_tensors(batch, 3, grid, 24, 3)
    yield "window_qk forward", record(_cpp.window_qk, [q, k, None, cells], grid, 3)
    backward = record(_cpp.window_qk_backward, [cells, q, k, q, k, None], grid, 3)
    yield "window_qk backward", backward
    yield "window_av forward", record(_cpp.window_av, [cells, k, q], grid, 3)
    coordinates = [of_shape(2**20), of_shape(2**20)]
    mlp = [of_shape(16, 2), of_shape(16), of_shape(3, 16)]
    table = of_shape(3, 2**20, 2**20)
    forward = record(_cpp.position_bias_table, [*coordinates, *mlp, of_shape(3), table])
    yield "position_bias_table forward", forward


def test_no_launch_has_more_blocks_than_a_grid_can_have() -> None:
    for name, launches in huge_launches():
        kernel, blocks, *_ = kernels(launches)[0]
        assert blocks == 2**31 - 1, (name, kernel)
        assert all(0 < each[1] < 2**31 for each in kernels(launches)), name


@pytest.mark.parametrize("op", ["conv_glu", "window", "position_bias_table"])
def test_one_token_is_one_block(op: str) -> None:
    if op == "conv_glu":
        x, out = torch.empty(1, 1, 2), torch.empty(1, 1, 1)
        weight, bias = torch.empty(1, 1, 3, 3), torch.empty(1)
        x_bias = torch.empty(2)
        tensors = [out, x, weight, bias, x_bias, x, weight, bias, x_bias]
        recorded = [record(_cpp.conv_glu, [x, weight, bias, x_bias, out], (1, 1))]
        recorded += [record(_cpp.conv_glu_backward, tensors, (1, 1))]
    elif op == "window":
        q, k, cells = window_tensors(1, 1, (1, 1), 1, 3)
        recorded = [record(_cpp.window_qk, [q, k, None, cells], (1, 1), 3)]
        recorded += [record(_cpp.window_av, [cells, k, q], (1, 1), 3)]
        tensors = [cells, q, k, q, k, torch.empty(1, 9)]
        recorded += [record(_cpp.window_qk_backward, tensors, (1, 1), 3)]
        recorded += [record(_cpp.window_av_backward, [q, cells, k, cells, k], (1, 1), 3)]
    else:
        one = torch.empty(1)
        mlp = [torch.empty(1, 2), one, torch.empty(1, 1)]
        table = torch.empty(1, 1, 1)
        recorded = [record(_cpp.position_bias_table, [one, one, *mlp, one, table])]
        recorded += [
            record(_cpp.position_bias_table_backward, [table, one, one, *mlp, one, *mlp, one])
        ]
    for launches in recorded:
        assert all(blocks == 1 for _, blocks, *_ in kernels(launches))


@pytest.mark.parametrize("dtype", STORAGE, ids=str)
def test_kernels_are_those_of_the_storage_type(dtype: torch.dtype) -> None:
    tokens, cells = of_shape(2, 3, 49, 24, dtype=dtype), of_shape(2, 3, 49, 9, dtype=dtype)
    x, half = of_shape(2, 49, 16, dtype=dtype), of_shape(2, 49, 8, dtype=dtype)
    weight, bias = of_shape(8, 1, 3, 3), of_shape(8)
    recorded = {
        "window_correlate": record(_cpp.window_qk, [tokens, tokens, None, cells], (7, 7), 3),
        "window_gather": record(_cpp.window_av, [cells, tokens, tokens], (7, 7), 3),
        "conv_glu_forward": record(_cpp.conv_glu, [x, weight, bias, None, half], (7, 7)),
        "gelu_pool_forward": record(_cpp.gelu_pool, [x, x], (7, 7), (7, 7)),
    }
    for name, launches in recorded.items():
        assert [kernel[0] for kernel in kernels(launches)] == [f"{name}<{STORAGE[dtype]}>"]
