"""The reference's operators against the formulas written out as plain loops over Python floats."""

from __future__ import annotations

import decimal
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import transnext_reference as reference
from deformable_cases import DeformableCase, deformable_cases
from transnext_reference.numerics import (
    gelu,
    gelu_and_slope,
    layer_norm,
    normal_cdf,
    normalize,
    softmax,
    softplus,
)

seeds = st.integers(0, 2**32 - 1)
extents = st.integers(1, 5)
grids = st.tuples(extents, extents)


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-13)


def cells_of(grid: tuple[int, int], side: int, n: int) -> Iterator[tuple[int, int | None]]:
    """(cell number, token) of every window cell of token n; None for a token outside the grid."""
    height, width = grid
    reach = side // 2
    for dy in range(-reach, side - reach):
        for dx in range(-reach, side - reach):
            row, column = n // width + dy, n % width + dx
            inside = 0 <= row < height and 0 <= column < width
            yield (dy + reach) * side + (dx + reach), row * width + column if inside else None


def unit(x: np.ndarray) -> np.ndarray:
    return x / max(math.sqrt(sum(float(value) ** 2 for value in x)), 1e-12)


def looped_attention(
    q, k, v, k_pool, v_pool, grid, window_size, scale, query_embedding, local_bias, pool_bias,
    tokens, token_bias,
):  # fmt: skip
    batch, count, heads, _ = q.shape
    pooled = k_pool.shape[1]
    out, log_sum_exp = np.zeros(q.shape), np.zeros(q.shape[:3])
    for b, n, h in np.ndindex(batch, count, heads):
        inside = [(cell, m) for cell, m in cells_of(grid, window_size, n) if m is not None]
        qn = unit(q[b, n, h])
        qh = (qn + query_embedding[h]) * scale[h] * math.log(len(inside) + pooled)
        logits = [float(qh @ unit(k[b, m, h])) + local_bias[h, cell] for cell, m in inside]
        logits += [float(qh @ unit(k_pool[b, m, h])) + pool_bias[h, n, m] for m in range(pooled)]
        largest = max(logits)
        total = math.fsum(math.exp(logit - largest) for logit in logits)
        weights = [math.exp(logit - largest) / total for logit in logits]
        log_sum_exp[b, n, h] = largest + math.log(total)
        for (cell, m), weight in zip(inside, weights, strict=False):
            positional = float(qn @ tokens[h, :, cell]) + token_bias[h, cell]
            out[b, n, h] += (weight + positional) * v[b, m, h]
        for m, weight in enumerate(weights[len(inside) :]):
            out[b, n, h] += weight * v_pool[b, m, h]
    return out, log_sum_exp


@given(
    grid=grids,
    pool_grid=grids,
    side=st.integers(0, 6),
    batch=st.integers(0, 2),
    zero=st.booleans(),
    seed=seeds,
)
def test_aggregated_attention(
    grid: tuple[int, int],
    pool_grid: tuple[int, int],
    side: int,
    batch: int,
    zero: bool,
    seed: int,
) -> None:
    generator = np.random.default_rng(seed)
    heads, dim, cells = 2, 3, side * side
    count, pooled = math.prod(grid), math.prod(pool_grid)
    q, k, v = generator.standard_normal((3, batch, count, heads, dim))
    k_pool, v_pool = generator.standard_normal((2, batch, pooled, heads, dim))
    if zero:
        q[:, 0], k[:, -1], k_pool[:, 0] = 0, 0, 0
    keywords = {
        "scale": generator.uniform(0.5, 5, heads),
        "query_embedding": generator.standard_normal((heads, dim)),
        "local_bias": generator.standard_normal((heads, cells)),
        "pool_bias": generator.standard_normal((heads, count, pooled)),
        "tokens": generator.standard_normal((heads, dim, cells)),
        "token_bias": generator.standard_normal((heads, cells)),
    }
    actual = reference.aggregated_attention(
        q, k, v, k_pool, v_pool, grid=grid, pool_grid=pool_grid, window_size=side, **keywords
    )
    expected = looped_attention(q, k, v, k_pool, v_pool, grid, side, **keywords)
    close(actual[0], expected[0])
    close(actual[1], expected[1])

    without = {name: np.zeros_like(value) for name, value in keywords.items() if name != "scale"}
    kept = {name: keywords[name] for name in ("scale", "local_bias", "pool_bias")}
    expected, _ = looped_attention(q, k, v, k_pool, v_pool, grid, side, **{**without, **kept})
    pixel_focused = reference.pixel_focused_attention(
        q, k, v, k_pool, v_pool, grid=grid, pool_grid=pool_grid, window_size=side, **kept
    )
    close(pixel_focused, expected)

    actual = reference.aggregated_attention(
        q, k, v, k_pool, v_pool, grid=grid, pool_grid=pool_grid, window_size=side,
        scale=keywords["scale"],
    )  # fmt: skip
    expected = looped_attention(q, k, v, k_pool, v_pool, grid, side, keywords["scale"], **without)
    close(actual[0], expected[0])
    close(actual[1], expected[1])


@given(grid=grids, seed=seeds)
def test_global_attention(grid: tuple[int, int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    heads, dim, count = 2, 3, math.prod(grid)
    q, k, v = generator.standard_normal((3, 2, count, heads, dim))
    scale = generator.uniform(0.5, 5, heads)
    embedding = generator.standard_normal((heads, dim))
    bias = generator.standard_normal((heads, count, count))
    expected = np.zeros(q.shape)
    for b, n, h in np.ndindex(2, count, heads):
        qh = (unit(q[b, n, h]) + embedding[h]) * scale[h] * math.log(count)
        weights = [math.exp(qh @ unit(k[b, m, h]) + bias[h, n, m]) for m in range(count)]
        for m, weight in enumerate(weights):
            expected[b, n, h] += weight / math.fsum(weights) * v[b, m, h]
    actual = reference.global_attention(
        q, k, v, grid=grid, scale=scale, query_embedding=embedding, bias=bias
    )
    close(actual, expected)


@given(grid=grids, side=st.integers(0, 6), batch=st.integers(0, 2), seed=seeds)
def test_window_products(grid: tuple[int, int], side: int, batch: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    heads, dim, count, cells = 2, 3, math.prod(grid), side * side
    q, k, v = generator.standard_normal((3, batch, heads, count, dim))
    bias = generator.standard_normal((heads, cells))
    attn = generator.standard_normal((batch, heads, count, cells))
    logits = np.full(attn.shape, -np.inf)
    out = np.zeros(v.shape)
    for b, h, n in np.ndindex(batch, heads, count):
        for cell, m in cells_of(grid, side, n):
            if m is None:
                attn[b, h, n, cell] = generator.choice([np.nan, np.inf, -np.inf])
            else:
                logits[b, h, n, cell] = q[b, h, n] @ k[b, h, m] + bias[h, cell]
                out[b, h, n] += attn[b, h, n, cell] * v[b, h, m]
    close(reference.window_qk(q, k, bias, grid=grid, window_size=side), logits)
    no_bias = reference.window_qk(q, k, grid=grid, window_size=side)
    close(no_bias + bias[:, None, :], logits)
    close(reference.window_av(attn, v, grid=grid, window_size=side), out)

    d_out, d_attn = generator.standard_normal(out.shape), np.where(np.isfinite(attn), attn, np.nan)
    keywords = {"grid": grid, "window_size": side}
    for gradient in (
        *reference.window_av_backward(d_out, attn, v, **keywords).values(),
        *reference.window_qk_backward(d_attn, q, k, bias, **keywords).values(),
    ):
        assert np.isfinite(gradient).all()


def looped_gelu(x: float) -> float:
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


@given(grid=grids, batch=st.integers(0, 2), with_bias=st.booleans(), seed=seeds)
def test_conv_glu(grid: tuple[int, int], batch: int, with_bias: bool, seed: int) -> None:
    generator = np.random.default_rng(seed)
    hidden, count = 2, math.prod(grid)
    x = generator.standard_normal((batch, count, 2 * hidden))
    weight = generator.standard_normal((hidden, 1, 3, 3))
    bias = generator.standard_normal(hidden) if with_bias else None
    expected = np.zeros((batch, count, hidden))
    for b, n, c in np.ndindex(batch, count, hidden):
        z = 0.0 if bias is None else float(bias[c])
        for cell, m in cells_of(grid, 3, n):
            z += 0.0 if m is None else weight[c, 0, cell // 3, cell % 3] * x[b, m, c]
        expected[b, n, c] = looped_gelu(z) * x[b, n, hidden + c]
    close(reference.conv_glu(x, weight, bias, grid=grid), expected)


@given(grid=grids, pool_grid=grids, batch=st.integers(0, 2), seed=seeds)
def test_gelu_pool(
    grid: tuple[int, int], pool_grid: tuple[int, int], batch: int, seed: int
) -> None:
    (height, width), (pool_height, pool_width) = grid, pool_grid
    channels = 2
    x = np.random.default_rng(seed).standard_normal((batch, height * width, channels))
    expected = np.zeros((batch, pool_height * pool_width, channels))
    for b, a, e, c in np.ndindex(batch, pool_height, pool_width, channels):
        rows = range(a * height // pool_height, math.ceil((a + 1) * height / pool_height))
        columns = range(e * width // pool_width, math.ceil((e + 1) * width / pool_width))
        values = [looped_gelu(x[b, i * width + j, c]) for i in rows for j in columns]
        expected[b, a * pool_width + e, c] = math.fsum(values) / len(values)
    close(reference.gelu_pool(x, grid=grid, pool_grid=pool_grid), expected)


@given(case=deformable_cases())
def test_deformable_attention(case: DeformableCase) -> None:
    case = replace(case, batch=1, queries=min(case.queries, 2), channels=1, heads=2)
    given_arrays = case.arrays()
    value, offsets, logits, near = given_arrays.values()
    starts = np.cumsum([0, *(rows * columns for rows, columns in case.shapes)])
    expected = np.zeros((1, case.queries, 2, 1))
    for n, h, s in np.ndindex(case.queries, 2, case.samples):
        level = s // case.points
        rows, columns = case.shapes[level]
        weights = softmax(logits[0, n, h])[0]
        place = []  # (x, y), in cells from the corner of the map
        for axis, side in enumerate((columns, rows)):
            unit = near[0, n, level, 2 + axis] * side / 2 / case.points if case.numbers == 4 else 1
            place.append(near[0, n, level, axis] * side + unit * offsets[0, n, h, s, axis])
        for y, x in np.ndindex(rows, columns):  # a tent over each cell's centre
            share = max(0.0, 1 - abs(place[0] - x - 0.5)) * max(0.0, 1 - abs(place[1] - y - 0.5))
            cell = starts[level] + y * columns + x
            expected[0, n, h, 0] += weights[s] * share * value[0, cell, h, 0]
    close(reference.deformable_attention(**given_arrays, shapes=case.shapes), expected)


@pytest.mark.parametrize("magnitude", [1e4, -1e4])
def test_extreme_logits_and_zero_vectors_stay_finite(magnitude: float) -> None:
    generator = np.random.default_rng(0)
    grid, pool_grid, heads, dim = (3, 4), (2, 2), 2, 3
    q, k, v = generator.standard_normal((3, 1, 12, heads, dim))
    k_pool, v_pool = generator.standard_normal((2, 1, 4, heads, dim))
    q[:, 3], k[:, 2], k_pool[:, 1] = 0, 0, 0
    keywords = {
        "grid": grid,
        "pool_grid": pool_grid,
        "window_size": 3,
        "scale": np.full(heads, abs(magnitude)),
        "local_bias": np.full((heads, 9), magnitude),
        "pool_bias": magnitude * generator.choice([-1, 1], (heads, 12, 4)),
    }
    out, log_sum_exp = reference.aggregated_attention(q, k, v, k_pool, v_pool, **keywords)
    assert np.isfinite(out).all()
    assert np.isfinite(log_sum_exp).all()
    assert np.abs(out).max() <= max(np.abs(v).max(), np.abs(v_pool).max())
    gradients = reference.aggregated_attention_backward(
        np.ones(out.shape), q, k, v, k_pool, v_pool, **keywords
    )
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


def test_softmax_rows_sum_to_one_and_mask() -> None:
    logits = np.array([[1e4, -1e4, 0.0], [-np.inf, 2.0, 2.0], [-1e4, -1e4, -1e4]])
    probabilities, log_sum_exp = softmax(logits)
    close(probabilities, np.array([[1, 0, 0], [0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]]))
    close(log_sum_exp, np.array([1e4, 2 + math.log(2), -1e4 + math.log(3)]))


def exact_normal_cdf(x: float) -> float:
    """Phi(x) by the Maclaurin series of erf in 80 decimal digits."""
    with decimal.localcontext() as context:
        context.prec = 80
        pi = decimal.Decimal(
            "3.14159265358979323846264338327950288419716939937510582097494459230781640628620899"
        )
        z = decimal.Decimal(x) / decimal.Decimal(2).sqrt()
        power, total = z, z
        for n in range(1, 600):
            power *= -z * z / n
            total += power / (2 * n + 1)
        return float((1 + 2 / pi.sqrt() * total) / 2)


def test_normal_cdf_is_accurate_in_both_tails() -> None:
    x = np.concatenate([np.linspace(-9, 9, 361), [-1e-9, 1e-9, 1e-300, 1 / 64, -8 - 1 / 64]])
    expected = np.array([exact_normal_cdf(value) for value in x.tolist()])
    error = np.abs(normal_cdf(x) - expected)
    assert error.max() <= 2.3e-16
    assert (error[x >= -8] <= 1e-14 * expected[x >= -8]).all()
    close(gelu(x), x * expected)


def test_gelu_of_extremes() -> None:
    x = np.array([-1e300, -1e4, -9.1, 0, 9.1, 1e4, 1e300, np.inf])
    assert normal_cdf(x).tolist() == [0, 0, 0, 0.5, 1, 1, 1, 1]
    assert gelu(x).tolist() == [0, 0, 0, 0, 9.1, 1e4, 1e300, np.inf]
    assert np.isnan(normal_cdf(np.array([np.nan]))).all()
    with np.errstate(invalid="ignore"):  # as PyTorch has them: -inf * 0, and inf * 0 in the slope
        assert np.isnan(gelu(np.array([-np.inf, np.nan]))).all()
        assert np.isnan(gelu_and_slope(np.array([-np.inf, np.inf, np.nan]))[1]).all()
    assert normal_cdf(np.zeros((0, 3))).shape == (0, 3)
    many = np.linspace(-4, 4, 40_000).reshape(2, -1)  # more than one chunk
    close(normal_cdf(many) + normal_cdf(-many), np.ones(many.shape))


def test_elementary_functions() -> None:
    close(softplus(np.array([-800.0, 0.0, 800.0])), np.array([0, math.log(2), 800]))
    close(
        normalize(np.array([[3.0, 4.0], [0.0, 0.0], [3e-13, 4e-13]])),
        [[0.6, 0.8], [0, 0], [0.3, 0.4]],
    )
    x = np.array([[1.0, 3.0], [5.0, 5.0]])
    expected = np.array([[2 - 1 / math.sqrt(1.5) * 3, 1 / math.sqrt(1.5)], [2, 0]])
    close(layer_norm(x, np.array([3.0, 1.0]), np.array([2.0, 0.0]), 0.5), expected)


GRID = {"grid": (2, 3), "pool_grid": (1, 2), "window_size": 3}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"q": np.zeros((1, 5, 2, 3))}, r"q: got shape \[1, 5, 2, 3\], needs \[any, 6, any, any\]"),
        ({"k": np.zeros((1, 6, 1, 3))}, r"k: got shape \[1, 6, 1, 3\], needs \[1, 6, 2, 3\]"),
        ({"v": None}, "v: got None"),
        ({"k_pool": np.zeros((1, 1, 2, 3))}, "k_pool: got shape"),
        ({"scale": np.ones(1)}, r"scale: got shape \[1\], needs \[2\]"),
        ({"pool_bias": np.zeros((1, 6, 2))}, "pool_bias: got shape"),
        ({"local_bias": np.zeros(9)}, "local_bias: got shape"),
        ({"grid": (2, 0)}, r"grid: got \(2, 0\), needs at least one row"),
        ({"grid": (2, 3.0)}, "grid: got .*, needs two whole numbers"),
        ({"pool_grid": 2}, "pool_grid: got 2, needs two whole numbers"),
        ({"window_size": -1}, "window_size: got -1"),
        ({"window_size": 1.5}, "window_size: got 1.5"),
        ({"window_size": 5000}, "window_size: got 5000, needs a whole number from 0 to 4096"),
        ({"q": np.zeros((1, 6, 2, 0))}, "q: got .*, none of them 0 but a batch"),
        ({"grid": (2**31, 2**31)}, "q: got shape"),  # before anything of that size is made
        ({"pool_grid": (2**31, 2**31)}, "k_pool: got shape"),
    ],
)
def test_wrong_arguments_are_named(changed: dict[str, object], message: str) -> None:
    own, pooled = np.ones((1, 6, 2, 3)), np.ones((1, 2, 2, 3))
    arguments = {"q": own, "k": own, "v": own, "k_pool": pooled, "v_pool": pooled}
    arguments |= {"scale": np.ones(2), **GRID}
    reference.aggregated_attention(**arguments)
    with pytest.raises(ValueError, match=message):
        reference.aggregated_attention(**{**arguments, **changed})
