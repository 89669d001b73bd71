"""Every hand-derived gradient of the reference against finite differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import transnext_reference as reference
from deformable_cases import DeformableCase, deformable_cases
from finite_differences import check_gradients, slope
from transnext_reference.numerics import (
    gelu,
    gelu_and_slope,
    normalize,
    normalize_backward,
    softmax,
    softmax_backward,
)

OPTIONAL = ("query_embedding", "local_bias", "pool_bias", "tokens", "token_bias")

seeds = st.integers(0, 2**32 - 1)
extents = st.integers(1, 5)


@dataclass(frozen=True)
class Case:
    """Sizes of one call, and which optional arguments it has."""

    grid: tuple[int, int]
    pool_grid: tuple[int, int]
    window_size: int
    batch: int = 2
    heads: int = 2
    dim: int = 3
    optional: tuple[str, ...] = OPTIONAL

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def cells(self) -> int:
        return self.window_size**2


@st.composite
def cases(draw: st.DrawFn) -> Case:
    grid = draw(st.tuples(extents, extents))
    return Case(
        grid=grid,
        pool_grid=(draw(st.integers(1, grid[0])), draw(st.integers(1, grid[1]))),
        window_size=draw(st.integers(1, 6)),
        batch=draw(st.integers(0, 2)),
        heads=draw(st.integers(1, 3)),
        dim=draw(st.integers(1, 4)),
        optional=tuple(name for name in OPTIONAL if draw(st.booleans())),
    )


EDGES = {
    "single token": Case((1, 1), (1, 1), 3),
    "one row": Case((1, 6), (1, 4), 3),
    "one column": Case((6, 1), (4, 1), 3),
    "window larger than the grid": Case((2, 3), (1, 2), 7),
    "even window": Case((4, 5), (2, 2), 2),
    "even window larger than the grid": Case((3, 2), (2, 1), 4),
    "pool as large as the grid": Case((3, 4), (3, 4), 3),
    "pool that does not divide": Case((5, 7), (2, 3), 3),
    "window of one cell": Case((3, 3), (1, 1), 1),
    "no window": Case((3, 2), (2, 2), 0),
    "empty batch": Case((3, 2), (2, 2), 3, batch=0),
    "head dim one": Case((3, 3), (2, 2), 3, dim=1),
    "nothing optional": Case((3, 4), (2, 2), 3, optional=()),
}


def vectors(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random vectors of lengths 0.5 to 2: away from zero, where normalisation bends sharply."""
    lengths = generator.uniform(0.5, 2.0, (*shape[:-1], 1))
    return lengths * normalize(generator.standard_normal(shape))


def attention_inputs(case: Case, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    pooled = case.pool_grid[0] * case.pool_grid[1]
    own = (case.batch, case.tokens, case.heads, case.dim)
    other = (case.batch, pooled, case.heads, case.dim)
    inputs = {"q": vectors(generator, own)}
    if case.window_size:
        inputs |= {"k": vectors(generator, own), "v": generator.standard_normal(own)}
    inputs |= {"k_pool": vectors(generator, other), "v_pool": generator.standard_normal(other)}
    inputs["scale"] = generator.uniform(0.5, 4.0, case.heads)
    shapes = {
        "query_embedding": (case.heads, case.dim),
        "local_bias": (case.heads, case.cells),
        "pool_bias": (case.heads, case.tokens, pooled),
        "tokens": (case.heads, case.dim, case.cells),
        "token_bias": (case.heads, case.cells),
    }
    return inputs | {name: generator.standard_normal(shapes[name]) for name in case.optional}


def check_attention(case: Case, seed: int) -> None:
    sizes = {"grid": case.grid, "pool_grid": case.pool_grid, "window_size": case.window_size}
    no_window = {} if case.window_size else {"k": None, "v": None}

    def forward(**inputs: np.ndarray) -> np.ndarray:
        out, _ = reference.aggregated_attention(**inputs, **no_window, **sizes)
        return out

    def backward(d_out: np.ndarray, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        return reference.aggregated_attention_backward(d_out, **inputs, **no_window, **sizes)

    check_gradients(forward, backward, attention_inputs(case, seed), seed=seed)


def check_window_products(case: Case, seed: int) -> None:
    sizes = {"grid": case.grid, "window_size": case.window_size}
    generator = np.random.default_rng(seed)
    shape = (case.batch, case.heads, case.tokens, case.dim)
    inputs = {"q": generator.standard_normal(shape), "k": generator.standard_normal(shape)}
    if "local_bias" in case.optional:
        inputs["bias"] = generator.standard_normal((case.heads, case.cells))
    check_gradients(
        partial(reference.window_qk, **sizes),
        partial(reference.window_qk_backward, **sizes),
        inputs,
        seed=seed,
    )
    inputs = {
        "attn": generator.standard_normal((*shape[:3], case.cells)),
        "v": generator.standard_normal(shape),
    }
    check_gradients(
        partial(reference.window_av, **sizes),
        partial(reference.window_av_backward, **sizes),
        inputs,
        seed=seed,
    )


@pytest.mark.parametrize("check", [check_attention, check_window_products])
@pytest.mark.parametrize("case", EDGES.values(), ids=EDGES.keys())
def test_edges(case: Case, check: Callable[[Case, int], None]) -> None:
    check(case, 1)


@given(case=cases(), seed=seeds)
def test_aggregated_attention(case: Case, seed: int) -> None:
    check_attention(case, seed)


@given(case=cases(), seed=seeds)
def test_pixel_focused_attention(case: Case, seed: int) -> None:
    sizes = {"grid": case.grid, "pool_grid": case.pool_grid, "window_size": case.window_size}
    inputs = attention_inputs(case, seed)
    for name in ("query_embedding", "tokens", "token_bias"):
        inputs.pop(name, None)
    check_gradients(
        partial(reference.pixel_focused_attention, **sizes),
        partial(reference.pixel_focused_attention_backward, **sizes),
        inputs,
        seed=seed,
    )


@given(grid=st.tuples(extents, extents), with_optional=st.booleans(), seed=seeds)
def test_global_attention(grid: tuple[int, int], with_optional: bool, seed: int) -> None:
    generator = np.random.default_rng(seed)
    count, heads, dim = grid[0] * grid[1], 2, 3
    shape = (2, count, heads, dim)
    inputs = {
        "q": vectors(generator, shape),
        "k": vectors(generator, shape),
        "v": generator.standard_normal(shape),
        "scale": generator.uniform(0.5, 4.0, heads),
    }
    if with_optional:
        inputs["query_embedding"] = generator.standard_normal((heads, dim))
        inputs["bias"] = generator.standard_normal((heads, count, count))
    check_gradients(
        partial(reference.global_attention, grid=grid),
        partial(reference.global_attention_backward, grid=grid),
        inputs,
        seed=seed,
    )


@pytest.mark.parametrize("length", [0.0, 5e-13])
@pytest.mark.parametrize("name", ["q", "k", "k_pool"])
def test_vectors_near_zero_have_the_gradient_of_the_linear_branch(name: str, length: float) -> None:
    """Up to a length of 1e-12, x / max(|x|, 1e-12) is x / 1e-12: some 1e12 steep, but finite."""
    case = Case((3, 4), (2, 2), 3)
    inputs = attention_inputs(case, seed=2)
    generator = np.random.default_rng(3)
    shape = inputs[name].shape
    chosen = np.zeros(shape)
    chosen[1, ::2, 0] = 1
    tiny = length * normalize(generator.standard_normal(shape))
    inputs[name] = np.where(chosen == 1, tiny, inputs[name])
    direction = chosen * generator.standard_normal(shape)
    sizes = {"grid": case.grid, "pool_grid": case.pool_grid, "window_size": case.window_size}
    out, log_sum_exp = reference.aggregated_attention(**inputs, **sizes)
    assert np.isfinite(out).all()
    assert np.isfinite(log_sum_exp).all()
    check_gradients(
        lambda **tensors: reference.aggregated_attention(**tensors, **sizes)[0],
        partial(reference.aggregated_attention_backward, **sizes),
        inputs,
        seed=4,
        directions={name: direction},
        step=1e-16,
    )


@given(case=cases(), seed=seeds)
def test_window_products(case: Case, seed: int) -> None:
    check_window_products(case, seed)


@given(
    grid=st.tuples(extents, extents),
    batch=st.integers(0, 2),
    hidden=st.integers(1, 3),
    with_bias=st.booleans(),
    with_x_bias=st.booleans(),
    seed=seeds,
)
def test_conv_glu(
    grid: tuple[int, int], batch: int, hidden: int, with_bias: bool, with_x_bias: bool, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    inputs = {
        "x": generator.standard_normal((batch, grid[0] * grid[1], 2 * hidden)),
        "weight": generator.standard_normal((hidden, 1, 3, 3)),
    }
    if with_bias:
        inputs["bias"] = generator.standard_normal(hidden)
    if with_x_bias:
        inputs["x_bias"] = generator.standard_normal(2 * hidden)
    check_gradients(
        partial(reference.conv_glu, grid=grid),
        partial(reference.conv_glu_backward, grid=grid),
        inputs,
        seed=seed,
    )


@given(case=cases(), seed=seeds)
def test_gelu_pool(case: Case, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((case.batch, case.tokens, case.dim))
    sizes = {"grid": case.grid, "pool_grid": case.pool_grid}
    check_gradients(
        partial(reference.gelu_pool, **sizes),
        partial(reference.gelu_pool_backward, **sizes),
        {"x": 2 * x},
        seed=seed,
    )


@given(case=deformable_cases(), seed=seeds)
def test_deformable_attention(case: DeformableCase, seed: int) -> None:
    case = replace(case, channels=min(case.channels, 3), queries=min(case.queries, 5))
    check_gradients(
        partial(reference.deformable_attention, shapes=case.shapes),
        partial(reference.deformable_attention_backward, shapes=case.shapes),
        case.arrays(),
        seed=seed,
        step=1e-6,  # so that no place reaches a kink
    )


@given(case=cases(), has_total=st.booleans(), seed=seeds)
def test_add_layer_norm(case: Case, has_total: bool, seed: int) -> None:
    """The norm alone, or the norm and the sum, of samples that are scaled."""
    generator = np.random.default_rng(seed)
    shape = (case.batch, case.tokens, case.dim)
    scales = generator.standard_normal(case.batch)

    def forward(x, branch, weight, bias, branch_bias):
        given = (x, branch, weight, bias, scales, branch_bias)
        both = reference.add_layer_norm(*given, epsilon=0.1)
        return np.concatenate(both, -1) if has_total else both[1]

    def backward(d_out, x, branch, weight, bias, branch_bias):
        given = (x, branch, weight, bias, scales, branch_bias)
        total, _ = reference.add_layer_norm(*given, epsilon=0.1)
        return reference.add_layer_norm_backward(
            d_out[..., : case.dim] if has_total else None, d_out[..., -case.dim :], total, weight,
            scales, epsilon=0.1,
        )  # fmt: skip

    inputs = {
        "x": generator.standard_normal(shape),
        "branch": generator.standard_normal(shape),
        "weight": generator.standard_normal(case.dim),
        "bias": generator.standard_normal(case.dim),
        "branch_bias": generator.standard_normal(case.dim),
    }
    check_gradients(forward, backward, inputs, seed=seed)


@given(case=cases(), taps=st.none() | st.integers(1, 4), seed=seeds)
def test_expand_position_bias(case: Case, taps: int | None, seed: int) -> None:
    generator = np.random.default_rng(seed)
    table = generator.standard_normal((case.heads, 3, 4))
    (height, width), (pool_height, pool_width) = case.grid, case.pool_grid
    shape = (width, pool_width, taps or 1)
    maps = {
        "row_map": generator.integers(0, 3, (height, pool_height)),
        "col_map": generator.integers(0, 4, shape),
        "col_weights": None if taps is None else generator.standard_normal(shape),
    }
    check_gradients(
        partial(reference.expand_position_bias, **maps),
        lambda d_dense, table: {
            "table": reference.expand_position_bias_backward(d_dense, table, **maps)
        },
        {"table": table},
        seed=seed,
    )


def test_elementary_functions() -> None:
    generator = np.random.default_rng(6)
    x = 3 * generator.standard_normal((4, 5))
    check_gradients(
        lambda x: gelu(x), lambda d_out, x: {"x": d_out * gelu_and_slope(x)[1]}, {"x": x}, seed=7
    )
    check_gradients(
        lambda x: softmax(x)[0],
        lambda d_out, x: {"x": softmax_backward(d_out, softmax(x)[0])},
        {"x": x},
        seed=8,
    )
    check_gradients(
        lambda x: normalize(x),
        lambda d_out, x: {"x": normalize_backward(d_out, x)},
        {"x": vectors(generator, (3, 4))},
        seed=9,
    )


def test_the_check_itself_rejects_wrong_gradients() -> None:
    """A slip of one part in 100,000 in a single entry fails, as do wrong shapes and names."""
    x = np.random.default_rng(10).standard_normal((3, 4))
    assert abs(slope(lambda t: float(np.sin(1 + t)), 1e-4) - np.cos(1)) < 1e-11

    def right(d_out: np.ndarray, x: np.ndarray) -> dict[str, np.ndarray]:
        return {"x": d_out * 2 * x}

    def slipped(d_out: np.ndarray, x: np.ndarray) -> dict[str, np.ndarray]:
        gradient = right(d_out, x)["x"]
        gradient[1, 2] *= 1 + 1e-5
        return {"x": gradient}

    check_gradients(lambda x: x**2, right, {"x": x}, seed=11)
    with pytest.raises(AssertionError, match="gradient of x"):
        check_gradients(lambda x: x**2, slipped, {"x": x}, seed=11)
    with pytest.raises(AssertionError):
        check_gradients(lambda x: x**2, lambda d_out, x: {}, {"x": x}, seed=11)
    with pytest.raises(AssertionError, match="x: "):
        check_gradients(lambda x: x**2, lambda d_out, x: {"x": x[0]}, {"x": x}, seed=11)
