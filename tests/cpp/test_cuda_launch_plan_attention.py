"""The launch plans of attention's CUDA kernels: tiles, shared memory, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from launch_recording import ARCHITECTURE, STORAGE, kernels, of_shape, record

_cpp = pytest.importorskip("transnext_ops._cpp")

# Dynamic shared memory that a block may have, by compute capability.
MOST_SHARED = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}  # KiB
PADDED_HEAD_DIMS = (24, 32, 64, 128)


def attention_launches(
    architecture: int = ARCHITECTURE,
    *,
    batch: int = 2,
    heads: int = 3,
    head_dim: int = 24,
    grid: tuple[int, int] = (56, 56),
    pool_grid: tuple[int, int] = (7, 7),
    window: int = 3,
    dtype: torch.dtype = torch.float32,
    table: bool = True,
    deterministic: bool = False,
    allow_tf32: bool = False,
) -> tuple[Any, Any]:
    """Return what attention with all its inputs launches, forward and backward."""

    def tokens(length: int) -> Tensor:
        return of_shape(batch, length, heads, head_dim, dtype=dtype)

    length, pooled, cells = math.prod(grid), math.prod(pool_grid), window**2
    q, k_pool = tokens(length), tokens(pooled)
    k = q if window else None
    maps: list[Tensor | None] = [None] * 3
    pool_bias = torch.empty(heads, length, pooled)
    if table:
        rows, columns = (
            size + size // pool * (pool - 1) for size, pool in zip(grid, pool_grid, strict=True)
        )
        pool_bias = torch.empty(heads, rows, columns)
        maps = [
            torch.zeros(grid[0], pool_grid[0], dtype=torch.int32),
            torch.zeros(grid[1], pool_grid[1], 1, dtype=torch.int32),
            None,
        ]
    scale, embedding = of_shape(heads), of_shape(heads, head_dim)
    local = of_shape(heads, cells) if window else None
    learned = of_shape(heads, head_dim, cells) if window else None
    log_sum_exp = of_shape(batch, length, heads)
    parameters = [scale, embedding, local, pool_bias]
    inputs = [q, k, k, k_pool, k_pool, *parameters, *maps, learned, local]
    sizes = (grid, pool_grid, window)
    forward = record(
        _cpp.aggregated_attention, [*inputs, q, log_sum_exp], *sizes, allow_tf32,
        architecture=architecture,
    )  # fmt: skip
    gradients = [q, k, k, k_pool, k_pool, *parameters, learned, local]
    backward = record(
        _cpp.aggregated_attention_backward, [q, q, log_sum_exp, *inputs, *gradients],
        *sizes, deterministic, architecture=architecture,
    )  # fmt: skip
    return forward, backward


def owns_tokens(backward: Any) -> tuple:
    """Return the kernel of the backward pass that owns tokens."""
    (kernel,) = (
        each for each in kernels(backward) if "_strips<" in each[0] or "_tiles<" in each[0]
    )
    return kernel


@pytest.mark.parametrize("dtype", STORAGE, ids=str)
@pytest.mark.parametrize(
    ("grid", "pool_grid", "window", "head_dim"),
    [
        ((1, 1), (1, 1), 3, 24),
        ((56, 56), (7, 7), 3, 24),
        ((200, 320), (25, 40), 3, 24),
        ((7, 7), (7, 7), 0, 24),
        ((1, 100), (1, 3), 3, 1),
        ((9, 5), (2, 2), 2, 40),
        ((14, 14), (7, 7), 0, 64),
    ],
)
@pytest.mark.parametrize("table", [True, False], ids=["table", "dense"])
def test_attention_plans_cover_every_query_and_fit(
    dtype, grid, pool_grid, window, head_dim, table
) -> None:
    padded = next(size for size in PADDED_HEAD_DIMS if size >= head_dim)
    kind = f"<{STORAGE[dtype]}, {padded}"
    fixed_window = window if window in (0, 3) and padded == 24 else -1
    queries = 2 * 3 * math.prod(grid)
    for architecture, kibibytes in MOST_SHARED.items():
        forward, backward = attention_launches(
            architecture, grid=grid, pool_grid=pool_grid, window=window, head_dim=head_dim,
            dtype=dtype, table=table,
        )  # fmt: skip
        ((name, blocks, threads, _),) = kernels(forward)
        assert name.startswith(f"aggregated_attention_forward{kind}, {fixed_window}, ")
        assert blocks * math.prod(threads) >= queries
        assert forward.workspace == 0
        names = [
            name.removeprefix("aggregated_attention_backward") for name, *_ in kernels(backward)
        ]
        strips = dtype != torch.float32 and window == 3 and padded <= 32
        # Zeros for the table's gradient first.
        owners = ("_strips", "_pooled_strips") if strips else ("_tiles",)
        assert names[int(table)] in [f"{owner}{kind}>" for owner in owners]
        assert f"_pooled_sums<{STORAGE[dtype]}>" in names
        assert "_parameter_sums<float>" in names
        assert ("_table_sums<float>" in names) == table
        # Of a table as atomic sums, unless asked.
        assert (f"_bias<{STORAGE[dtype]}>" in names) == (not table)
        assert backward.workspace >= queries
        for _, blocks, threads, shared in kernels(forward) + kernels(backward):
            assert blocks > 0
            assert math.prod(threads) in (64, 128, 192, 256)
            assert shared <= kibibytes * 1024


@pytest.mark.parametrize(
    ("architecture", "grid", "pool_grid", "window", "dtype", "tile"),
    [
        (80, (200, 320), (25, 40), 3, torch.float16, "WideTile"),
        (86, (56, 56), (7, 7), 3, torch.float32, "WideTile"),
        (80, (50, 80), (25, 40), 3, torch.float16, "WideTile"),
        (80, (14, 14), (7, 7), 3, torch.float16, "MediumTile"),  # wide ones would be half idle
        (80, (14, 14), (7, 7), 3, torch.float32, "SmallTile"),  # whose shared memory is less
        (80, (7, 7), (7, 7), 0, torch.float16, "SmallTile"),
        (80, (25, 40), (25, 40), 0, torch.float32, "MediumTile"),
    ],
)
def test_attention_takes_tiles_that_fit_the_grid(
    architecture, grid, pool_grid, window, dtype, tile
) -> None:
    forward, _ = attention_launches(
        architecture, grid=grid, pool_grid=pool_grid, window=window, dtype=dtype
    )
    ((name, blocks, threads, _),) = kernels(forward)
    assert name == f"aggregated_attention_forward<{STORAGE[dtype]}, 24, {window}, {tile}>"
    rows, columns = {"WideTile": (8, 32), "MediumTile": (8, 16), "SmallTile": (8, 8)}[tile]
    assert math.prod(threads) == rows * columns
    assert blocks == 2 * 3 * -(-grid[0] // rows) * -(-grid[1] // columns)


@pytest.mark.parametrize("architecture", MOST_SHARED)
@pytest.mark.parametrize("dtype", STORAGE, ids=str)
@pytest.mark.parametrize("head_dim", [8, 24, 32])
@pytest.mark.parametrize("window", [0, 2, 3])
def test_attention_takes_tf32_where_it_is_allowed_and_there(
    architecture, dtype, head_dim, window
) -> None:
    def storage(allow_tf32: bool) -> str:
        forward, backward = attention_launches(
            architecture, dtype=dtype, head_dim=head_dim, window=window, allow_tf32=allow_tf32,
            grid=(14, 14),
        )  # fmt: skip
        assert not any("TensorFloat32" in name for name, *_ in kernels(backward))
        ((name, _, _, shared),) = kernels(forward)
        assert shared <= MOST_SHARED[architecture] * 1024
        return name.partition("<")[2].partition(",")[0]

    there = dtype == torch.float32 and architecture >= 80 and head_dim <= 24
    assert storage(allow_tf32=False) == STORAGE[dtype]
    assert storage(allow_tf32=True) == ("TensorFloat32" if there else STORAGE[dtype])


def test_attention_on_tf32_takes_no_more_shared_memory_than_float() -> None:
    for grid, pool_grid in (((56, 56), (7, 7)), ((200, 320), (25, 40))):
        for architecture in (80, 86, 120):
            shared = [
                kernels(attention_launches(
                    architecture, grid=grid, pool_grid=pool_grid, allow_tf32=allowed
                )[0])[0][3]
                for allowed in (False, True)
            ]  # fmt: skip
            assert shared[1] <= 1.05 * shared[0]


def test_attention_refuses_rows_that_32_bits_cannot_tell_apart() -> None:
    memory = torch.empty(2**31 + 24, dtype=torch.float16)  # nothing touches it
    far = memory.as_strided((1, 2, 1, 24), (0, 2**31, 24, 1))
    near = torch.empty(1, 2, 1, 24, dtype=torch.float16)
    scale, log_sum_exp = torch.ones(1), torch.empty(1, 2, 1)
    tensors = [far, near, near, near, near, scale, *[None] * 8, near, log_sum_exp]
    message = r"aggregated_attention: q has a stride of 2147483648 elements; .* less than 2\^31"
    with pytest.raises(ValueError, match=message):
        record(_cpp.aggregated_attention, tensors, (1, 2), (1, 2), 3, False)


def test_attention_takes_smaller_tiles_where_shared_memory_is_smaller() -> None:
    shared, blocks = {}, {}
    for architecture in (86, 80, 90):
        _, backward = attention_launches(architecture)
        _, blocks[architecture], _, shared[architecture] = owns_tokens(backward)
    assert blocks[86] > blocks[80] > blocks[90]
    assert shared[86] < shared[80] < shared[90]
    assert shared[90] > 48 * 1024  # what a kernel has to ask for


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("grid", [(56, 56), (14, 14), (200, 320), (3, 5)])
def test_strips_of_the_backward_cover_every_token_and_leave_room_for_two_blocks(
    batch, grid
) -> None:
    for architecture, kibibytes in MOST_SHARED.items():
        _, backward = attention_launches(architecture, batch=batch, grid=grid, dtype=torch.float16)
        name, blocks, threads, shared = owns_tokens(backward)
        pooled = "pooled_" if architecture in (90, 100) else ""
        assert name == f"aggregated_attention_backward_{pooled}strips<Half, 24>"
        across = -(-grid[1] // 14)
        assert blocks % (batch * 3 * across) == 0
        # A strip has whole steps, of which the row above and the row below are not its own.
        down, step = blocks // (batch * 3 * across), threads[0] // 32
        heights = {grid[0], *(steps * step - 2 for steps in range(1, grid[0] // step + 1))}
        assert down in {-(-grid[0] // height) for height in heights}
        assert threads[0] in (192, 256)
        if architecture >= 80:
            assert 2 * (shared + 1024) <= (kibibytes + 1) * 1024


@pytest.mark.parametrize(
    ("batch", "grid", "down"),
    [
        (1, (56, 56), 10),  # one step each: 120 blocks, 12 if strips were as high as the image
        (4, (56, 56), 4),
        (64, (56, 56), 1),  # whose blocks would only repeat the rows that two strips share
        (1, (200, 320), 4),
        (64, (200, 320), 1),
        (1, (3, 5), 1),
    ],
)
def test_strips_are_low_where_there_are_few(batch, grid, down) -> None:
    _, backward = attention_launches(batch=batch, grid=grid, dtype=torch.float16)
    assert owns_tokens(backward)[1] == batch * 3 * -(-grid[1] // 14) * down


def test_the_backward_takes_tiles_where_no_strip_fits() -> None:
    _, backward = attention_launches(75, head_dim=32, dtype=torch.float16)
    assert owns_tokens(backward)[0] == "aggregated_attention_backward_tiles<Half, 32>"
    _, backward = attention_launches(80, head_dim=32, dtype=torch.float16)
    assert owns_tokens(backward)[0] == "aggregated_attention_backward_strips<Half, 32>"


@pytest.mark.parametrize(
    ("architecture", "changes", "by_strips"),
    [
        (90, {}, True),
        (100, {}, True),
        (90, {"dtype": torch.bfloat16}, True),
        (90, {"pool_grid": (7, 8)}, True),
        (90, {"pool_grid": (7, 8), "table": False}, True),
        (90, {"deterministic": True}, True),
        (80, {}, False),  # too little shared memory for two blocks
        (120, {}, False),
        (90, {"head_dim": 32}, False),
        (90, {"pool_grid": (3, 19)}, False),  # one more than a query's weights have room for
        (90, {"dtype": torch.float32}, False),
        (90, {"window": 5}, False),
    ],
)
def test_strips_own_pooled_keys_where_there_is_room(architecture, changes, by_strips) -> None:
    sizes = {"pool_grid": (7, 7), "dtype": torch.float16, **changes}
    _, backward = attention_launches(architecture, **sizes)
    names = [name for name, *_ in kernels(backward)]
    assert any("_pooled_strips<" in name for name in names) == by_strips
    assert any("_pooled<" in name for name in names) == (not by_strips)
    assert any("_pooled_sums<" in name for name in names)
    # The table's gradient is zero before anything is added to it.
    if changes.get("table", True) and not changes.get("deterministic"):
        assert names[0] == "aggregated_attention_backward_table_sums<float>"


def test_attention_gradients_of_a_table_in_order_are_other_kernels() -> None:
    _, backward = attention_launches(deterministic=True)
    names = [name for name, *_ in kernels(backward)]
    assert "aggregated_attention_backward_bias<float>" in names
    assert names[-1] == "aggregated_attention_backward_table_sums<float>"


def test_attention_that_has_no_kernel_says_what_is_needed() -> None:
    with pytest.raises(ValueError, match="kernels take head dims up to 128, got 129"):
        attention_launches(head_dim=129)
    for window in (10, 300, 4096):  # also where sizes in bytes no longer fit into 32 bits
        with pytest.raises(ValueError, match=f"take smaller windows than {window} with head dim"):
            attention_launches(window=window, head_dim=64, grid=(1000, 1000), table=False)


def test_kernels_with_a_block_for_each_tile_say_when_a_grid_cannot_have_them() -> None:
    message = (
        r"aggregated_attention: the CUDA kernels take batches of at most 2147483647 tiles, got"
    )
    with pytest.raises(ValueError, match=message):
        attention_launches(batch=2**30)
