"""The compiled CPU kernels against the reference: every operator, element type, instruction set.

The Hypothesis suite of tests/ops searches the space of inputs with the default instruction set;
here chosen edges run on each one, with odd thread counts, on the backend's own functions.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from strategies import DTYPES, Numbers, compute_dtype
from tolerances import tolerance
from transnext_ops.backends import cpp_backend, reference_backend

_cpp = pytest.importorskip("transnext_ops._cpp")

# Those with tiles have other GEMMs alone: tests/ops/test_ops_fused_blocks.py.
LEVELS = [name for name in _cpp.available_cpu_levels() if not name.startswith("amx")]
OPTIONAL = ("query_embedding", "local_bias", "tokens", "token_bias")

# batch, grid, pool_grid, heads, head_dim, window_size, bias, layout
ATTENTION_EDGES = [
    (2, (5, 7), (2, 3), 2, 24, 3, "table", "packed"),
    (1, (1, 1), (1, 1), 1, 8, 3, "none", "contiguous"),
    (2, (1, 9), (1, 4), 1, 24, 3, "table", "transposed"),
    (1, (9, 1), (4, 1), 2, 9, 5, "dense", "sliced"),
    (1, (3, 3), (3, 3), 1, 24, 7, "weighted", "packed"),  # a window larger than the grid
    (2, (4, 6), (2, 2), 1, 32, 4, "dense", "expanded"),  # an even window
    (1, (6, 5), (6, 5), 2, 128, 0, "dense", "packed"),  # global attention
    (1, (13, 40), (9, 8), 1, 24, 3, "table", "packed"),  # several blocks, more keys than a tile
    (0, (4, 4), (2, 2), 2, 24, 3, "weighted", "contiguous"),
]
WINDOW_EDGES = [  # batch, grid, heads, channels, window_size, layout
    (2, (5, 7), 2, 24, 3, "contiguous"),
    (1, (1, 9), 1, 8, 5, "transposed"),
    (1, (9, 1), 3, 9, 4, "sliced"),
    (2, (2, 2), 1, 40, 7, "expanded"),
    (1, (12, 30), 1, 24, 3, "contiguous"),
    (0, (3, 3), 1, 24, 3, "contiguous"),
]
TOKEN_EDGES = [  # batch, grid, pool_grid, channels, layout
    (2, (5, 7), (2, 3), 24, "contiguous"),
    (1, (1, 1), (1, 1), 1, "sliced"),
    (1, (1, 9), (1, 2), 17, "transposed"),
    (2, (19, 6), (19, 6), 40, "expanded"),  # more rows than a band of the backward
    (1, (3, 75), (1, 2), 512, "contiguous"),  # rows that are cut into segments
    (0, (3, 3), (1, 1), 8, "contiguous"),
]


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Let malloc fill what it hands out with 3.4e38 (glibc), so that nothing counts on zeros."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    perturb = -6  # M_PERTURB
    if mallopt is not None:
        mallopt(perturb, 0x80)
    yield
    if mallopt is not None:
        mallopt(perturb, 0)


@pytest.fixture(params=[(level, threads) for level in LEVELS for threads in (1, 3)], ids=str)
def setting(request) -> Iterator[tuple[str, int]]:
    """An instruction set and a thread count, put back afterwards."""
    level, threads = request.param
    before = torch.get_num_threads()
    _cpp.set_cpu_level(level)
    torch.set_num_threads(threads)
    yield request.param
    torch.set_num_threads(before)
    _cpp.set_cpu_level(None)


def double(argument: Any) -> Any:
    if isinstance(argument, Tensor) and argument.is_floating_point():
        return argument.double()
    return argument


def assert_close(name: str, actual: Tensor, expected: Tensor, dtype, work: float, gradient: bool):
    assert actual.shape == expected.shape, name
    assert actual.is_contiguous(), name
    outside = torch.isinf(expected)
    assert torch.equal(torch.isinf(actual), outside), name
    difference = (actual.double() - expected).masked_fill(outside, 0.0)
    size = expected.masked_fill(outside, 0.0).norm()
    # A sum that cancels (a softmax over one key has no gradient) is right to the size of its terms.
    allowed = tolerance(dtype, work, gradient=gradient) * max(size.item(), 1e-2 * work**0.5)
    assert difference.norm().item() <= allowed, (name, difference.norm(), size, allowed)


def compare(op: str, arguments: tuple, dtype: torch.dtype, work: float) -> Any:
    """Run forward on both sides; return the compiled result."""
    actual = getattr(cpp_backend, op)(*arguments)
    expected = getattr(reference_backend, op)(*map(double, arguments))
    if not isinstance(actual, tuple):
        actual, expected = (actual,), (expected,)
    for i, (ours, truth) in enumerate(zip(actual, expected, strict=True)):
        assert_close(f"{op}[{i}]", ours, truth, dtype, work, gradient=False)
    return actual if len(actual) > 1 else actual[0]


def compare_gradients(op: str, arguments: tuple, needs: list[bool], dtype, work: float) -> None:
    """Compare all gradients, and that asking for each one alone gives the same."""
    backward = getattr(cpp_backend, op)
    actual = backward(*arguments, needs)
    expected = getattr(reference_backend, op)(*map(double, arguments), needs)
    for i, (ours, truth) in enumerate(zip(actual, expected, strict=True)):
        assert (ours is None) == (truth is None), (op, i)
        if ours is not None:
            assert_close(f"{op}[{i}]", ours, truth, dtype, work, gradient=True)
    for i, needed in enumerate(needs):
        if needed:
            alone = backward(*arguments, [j == i for j in range(len(needs))])
            assert [value is None for value in alone] == [j != i for j in range(len(needs))]
            torch.testing.assert_close(alone[i], actual[i], rtol=2e-5, atol=1e-5)


def axis_maps(numbers: Numbers, grid, pool_grid, rows: int, columns: int, taps: int):
    generator = numbers.generator
    row_map = generator.integers(0, rows, (grid[0], pool_grid[0]), dtype=np.int32)
    col_map = generator.integers(0, columns, (grid[1], pool_grid[1], taps), dtype=np.int32)
    return torch.from_numpy(row_map), torch.from_numpy(col_map)


def attention_arguments(edge: tuple, dtype: torch.dtype, optional: tuple[str, ...] = OPTIONAL):
    batch, grid, pool_grid, heads, channels, window, bias, layout = edge
    numbers = Numbers(7)
    length, pooled, cells = grid[0] * grid[1], pool_grid[0] * pool_grid[1], window**2

    def tokens(count: int) -> Tensor:
        return numbers.activation(batch, count, heads, channels, dtype=dtype, layout=layout)

    def parameter(name: str, *shape: int) -> Tensor | None:
        value = numbers.parameter(*shape, dtype=dtype, scale=0.3)
        return value if name in optional else None

    q, k, v = tokens(length), tokens(length), tokens(length)
    pool_bias = row_map = col_map = col_weights = None
    if bias == "dense":
        pool_bias = numbers.parameter(heads, length, pooled, dtype=dtype)
    elif bias != "none":
        taps = 3 if bias == "weighted" else 1
        pool_bias = numbers.parameter(heads, 5, 6, dtype=dtype)
        row_map, col_map = axis_maps(numbers, grid, pool_grid, 5, 6, taps)
        if bias == "weighted":
            col_weights = numbers.parameter(grid[1], pool_grid[1], taps, dtype=dtype)
    local = window > 0
    return (
        q, k if local else None, v if local else None, tokens(pooled), tokens(pooled),
        numbers.parameter(heads, dtype=dtype).abs() + 0.5,
        parameter("query_embedding", heads, channels),
        parameter("local_bias", heads, cells) if local else None,
        pool_bias, row_map, col_map, col_weights,
        parameter("tokens", heads, channels, cells) if local else None,
        parameter("token_bias", heads, cells) if local else None,
        grid, pool_grid, window,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("edge", ATTENTION_EDGES, ids=str)
def test_aggregated_attention(setting, edge: tuple, dtype: torch.dtype) -> None:
    optional = OPTIONAL if edge[1] != (9, 1) else ("tokens",)
    arguments = attention_arguments(edge, dtype, optional)
    work = edge[4] + edge[5] ** 2 + edge[2][0] * edge[2][1]
    out, log_sum_exp = compare("aggregated_attention", arguments, dtype, work)
    assert out.dtype == dtype
    assert log_sum_exp.dtype == compute_dtype(dtype)
    d_out = Numbers(8).activation(*out.shape, dtype=dtype, layout=edge[7])
    differentiable = (*arguments[:9], *arguments[12:14])
    needs = [tensor is not None for tensor in differentiable]
    compare_gradients(
        "aggregated_attention_backward",
        (d_out, out, log_sum_exp, *arguments), needs, dtype, work * max(1, out[:, :, 0, 0].numel()),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("edge", WINDOW_EDGES, ids=str)
def test_window_products(setting, edge: tuple, dtype: torch.dtype) -> None:
    batch, grid, heads, channels, window, layout = edge
    numbers = Numbers(9)
    length, cells = grid[0] * grid[1], window**2

    def activation(size: int) -> Tensor:
        return numbers.activation(batch, heads, length, size, dtype=dtype, layout=layout)

    q, k, v, d_out = (activation(channels) for _ in range(4))
    attn, d_attn = activation(cells), activation(cells)
    bias = numbers.parameter(heads, cells, dtype=dtype)
    logits = compare("window_qk", (q, k, bias, grid, window), dtype, channels)
    compare("window_qk", (q, k, None, grid, window), dtype, channels)
    compare_gradients(
        "window_qk_backward", (d_attn, q, k, grid, window), [True] * 3, dtype, cells * length
    )
    # What stands outside the image must not be read into anything.
    poisoned = attn.masked_fill(torch.isinf(logits), float("nan"))
    clean = attn.masked_fill(torch.isinf(logits), 0.0)
    out = compare("window_av", (clean, v, grid, window), dtype, cells)
    assert torch.equal(cpp_backend.window_av(poisoned, v, grid, window), out)
    compare_gradients(
        "window_av_backward", (d_out, clean, v, grid, window), [True] * 2, dtype, cells
    )
    poisoned_gradient = cpp_backend.window_av_backward(
        d_out, poisoned, v, grid, window, [False, True]
    )
    clean_gradient = cpp_backend.window_av_backward(d_out, clean, v, grid, window, [False, True])
    assert torch.equal(poisoned_gradient[1], clean_gradient[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("edge", TOKEN_EDGES, ids=str)
def test_conv_glu(setting, edge: tuple, dtype: torch.dtype) -> None:
    batch, grid, _, hidden, layout = edge
    numbers = Numbers(10)
    x = numbers.activation(batch, grid[0] * grid[1], 2 * hidden, dtype=dtype, layout=layout)
    weight = numbers.parameter(hidden, 1, 3, 3, dtype=dtype)
    biases = (
        numbers.parameter(hidden, dtype=dtype),
        numbers.parameter(2 * hidden, dtype=dtype, scale=0.3),
    )
    for given in (biases, (None, None)):
        out = compare("conv_glu", (x, weight, *given, grid), dtype, 10)
    d_out = numbers.activation(*out.shape, dtype=dtype, layout=layout)
    for given in (biases, (None, None)):
        needs = [True, True, *(each is not None for each in given)]
        compare_gradients(
            "conv_glu_backward", (d_out, x, weight, *given, grid), needs, dtype,
            out[..., 0].numel(),
        )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("edge", TOKEN_EDGES, ids=str)
def test_gelu_pool(setting, edge: tuple, dtype: torch.dtype) -> None:
    batch, grid, pool_grid, channels, layout = edge
    numbers = Numbers(11)
    x = numbers.activation(batch, grid[0] * grid[1], channels, dtype=dtype, layout=layout)
    out = compare("gelu_pool", (x, grid, pool_grid), dtype, 10)
    d_out = numbers.activation(*out.shape, dtype=dtype, layout=layout)
    compare("gelu_pool_backward", (d_out, x, grid, pool_grid), dtype, 10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sizes", [(5, 7, 16, 2), (1, 1, 1, 1), (3, 40, 33, 5)], ids=str)
def test_position_bias_table(setting, sizes: tuple, dtype: torch.dtype) -> None:
    rows, columns, hidden, heads = sizes
    numbers = Numbers(12)
    shapes = ((rows,), (columns,), (hidden, 2), (hidden,), (heads, hidden), (heads,))
    inputs = tuple(numbers.parameter(*shape, dtype=dtype) for shape in shapes)
    table = compare("position_bias_table", inputs, dtype, hidden)
    d_table = numbers.parameter(*table.shape, dtype=dtype)
    compare_gradients(
        "position_bias_table_backward",
        (d_table, *inputs),
        [True] * 4,
        dtype,
        rows * columns * hidden,
    )
    strided = tuple(torch.stack((value, value), -1)[..., 0] for value in inputs)
    assert torch.equal(cpp_backend.position_bias_table(*strided), table)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gelu_is_exact_over_its_range(setting, dtype: torch.dtype) -> None:
    """With bins of one token the pool is GELU itself."""
    values = torch.cat(
        (torch.linspace(-14, 14, 4001, dtype=torch.float64), torch.tensor([1e4, -1e4, 0.0, 1e-3]))
    ).to(dtype)
    grid = (1, values.numel())
    x = values.reshape(1, -1, 1)
    actual = cpp_backend.gelu_pool(x, grid, grid).double().flatten()
    slope = cpp_backend.gelu_pool_backward(torch.ones_like(x), x, grid, grid).double().flatten()
    exact = values.double()
    normal = 0.5 * torch.special.erfc(-exact / 2**0.5)
    density = torch.exp(-0.5 * exact**2) / (2 * np.pi) ** 0.5
    unit = {torch.float64: 1e-15, torch.float32: 2e-7}.get(dtype, torch.finfo(dtype).eps)
    bound = unit * torch.clamp(exact.abs(), min=1.0)
    assert bool(((actual - exact * normal).abs() <= bound).all())
    assert bool(((slope - (normal + exact * density)).abs() <= bound).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gelu_of_the_infinite(setting, dtype: torch.dtype) -> None:
    """What the formula gives, and PyTorch: -inf * 0 is NaN, and so is inf * 0 in the slope."""
    values = [float("inf"), float("-inf"), float("nan")]
    x = torch.tensor(values, dtype=dtype).reshape(1, 3, 1).expand(1, 3, 9)
    grid = (1, 3)
    actual = cpp_backend.gelu_pool(x, grid, grid)
    expected = torch.nn.functional.gelu(x.double()).to(dtype)
    torch.testing.assert_close(actual, expected, equal_nan=True)
    assert actual[0, 0, 0] == float("inf")
    slope = cpp_backend.gelu_pool_backward(torch.ones_like(x), x, grid, grid)
    assert bool(slope.isnan().all())


def half_bits(dtype: torch.dtype) -> Tensor:
    return torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_half_is_read_exactly_and_every_rounding_is_to_even(setting, dtype) -> None:
    """window_av with a window of one cell multiplies: by 1 it copies all 65,536 bit patterns, and
    products of two halves fall between and halfway between halves."""
    bits = half_bits(dtype)
    values = bits[torch.isfinite(bits)]
    count = values.numel()
    v = values.reshape(1, 1, count, 1).expand(1, 1, count, 9)
    for factor in (1.0, 1.5, 1.0 + 2.0**-7, 0.375):
        attn = torch.full((1, 1, count, 1), factor, dtype=dtype)
        actual = cpp_backend.window_av(attn, v, (1, count), 1)
        expected = (v.float() * attn.float() + 0.0).to(dtype)  # a sum of zeros is +0
        assert torch.equal(actual.view(torch.int16), expected.view(torch.int16)), factor


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_half_that_is_no_number_stays_none(setting, dtype) -> None:
    bits = half_bits(dtype)
    values = bits[~torch.isfinite(bits)]
    count = values.numel()
    v = values.reshape(1, 1, count, 1).expand(1, 1, count, 9)
    actual = cpp_backend.window_av(torch.ones(1, 1, count, 1, dtype=dtype), v, (1, count), 1)
    torch.testing.assert_close(actual, v, equal_nan=True, rtol=0, atol=0)
