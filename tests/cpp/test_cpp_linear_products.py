"""The products of a Linear in training against float64: its result and its gradients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from tolerances import assert_agrees
from transnext_ops.linear_products import has_tiles, linear, weight_gradient

_cpp = pytest.importorskip("transnext_ops._cpp")

LEVELS = _cpp.available_cpu_levels()
TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = ("contiguous", "part", "sliced", "transposed", "expanded")


@pytest.fixture(params=LEVELS, autouse=True, scope="module")
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _cpp.cpu_level()
    _cpp.set_cpu_level(request.param)
    yield request.param
    _cpp.set_cpu_level(before)


def tokens(rows: int, features: int, dtype: torch.dtype, layout: str) -> Tensor:
    generator = torch.Generator().manual_seed(7 * rows + features)
    x = torch.randn(rows, features, generator=generator).to(dtype)
    if layout == "part":
        return torch.cat((x.flip(1), x, x), 1)[:, features : 2 * features]
    if layout == "sliced":
        return torch.stack((x, -x), -1)[..., 0]
    if layout == "transposed":
        return x.t().contiguous().t()
    return x[:1].expand(rows, features) if layout == "expanded" and rows > 0 else x


def assert_right(d_out: Tensor, x: Tensor, dtype: torch.dtype) -> None:
    d_weight, d_bias = weight_gradient(d_out, x, dtype, bias=True)
    assert d_bias is not None
    assert d_weight.dtype == d_bias.dtype == dtype
    expected = {
        "d_weight": (d_weight, d_out.double().t() @ x.double()),
        "d_bias": (d_bias, d_out.double().sum(0)),
    }
    for name, (actual, right) in expected.items():
        assert_agrees(name, actual, right.numpy(), dtype=dtype, work=len(x), gradient=True)


@given(
    st.integers(0, 70), st.integers(1, 70), st.integers(1, 70), st.booleans(),
    st.sampled_from(TYPES), st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS),
)  # fmt: skip
@example(300, 100, 97, True, torch.bfloat16, "contiguous", "transposed")  # blocks of rows, panels
@example(40, 49, 400, False, torch.float32, "sliced", "contiguous")
def test_a_product_is_that_of_float64(rows, columns, depth, biased, dtype, of_x, of_weight) -> None:
    x, weight = tokens(rows, depth, dtype, of_x), tokens(columns, depth, dtype, of_weight)
    bias = torch.linspace(-1, 1, columns) if biased else None
    right = x.double() @ weight.double().t() + (0 if bias is None else bias.double())
    found = linear(x, weight, bias)
    assert found.dtype == dtype
    assert_agrees("out", found, right.numpy(), dtype=dtype, work=depth)


def test_a_weight_is_rounded_to_the_type_of_the_tokens() -> None:
    x, weight = tokens(9, 33, torch.bfloat16, "contiguous"), tokens(50, 33, torch.float32, "part")
    assert torch.equal(linear(x, weight), linear(x, weight.bfloat16()))


@given(
    st.integers(1, 70), st.integers(1, 70), st.integers(1, 70),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS),
)  # fmt: skip
@example(300, 330, 20, torch.float32, "contiguous", "contiguous")  # several blocks of each side
@example(40, 49, 400, torch.float32, "contiguous", "sliced")
@example(513, 33, 17, torch.bfloat16, "transposed", "contiguous")  # tokens in several parts
def test_sums_are_those_of_float64(rows, columns, depth, dtype, of_gradient, of_input) -> None:
    d_out = tokens(rows, columns, torch.bfloat16, of_gradient)
    assert_right(d_out, tokens(rows, depth, torch.bfloat16, of_input), dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_other_types_are_summed_in_theirs(dtype: torch.dtype) -> None:
    """On vectors: no tile unit has them."""
    d_out, x = (tokens(70, features, dtype, "contiguous") for features in (33, 9))
    assert_right(d_out, x, torch.float64 if dtype == torch.float64 else torch.float32)


def test_a_sum_of_no_tokens_is_zero() -> None:
    found = weight_gradient(
        torch.zeros(0, 5).bfloat16(), torch.zeros(0, 3).bfloat16(), torch.float32, bias=True
    )
    assert all(tensor is not None and not tensor.any() for tensor in found)
    assert (
        weight_gradient(torch.zeros(2, 5), torch.zeros(2, 3), torch.float32, bias=False)[1] is None
    )


def test_results_do_not_depend_on_the_threads() -> None:
    d_out, x = (tokens(90, features, torch.bfloat16, "contiguous") for features in (200, 100))
    weight = tokens(200, 100, torch.float32, "contiguous")
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 4):
            torch.set_num_threads(count)
            found.append((*weight_gradient(d_out, x, torch.float32, bias=True), linear(x, weight)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("shapes", "dtype", "message"),
    [
        (((4, 5), (3, 2)), torch.bfloat16, "weight_gradient: d_out has shape"),
        (((4, 5), (4, 2)), torch.float32, "weight_gradient: d_out is float32, needs bfloat16"),
    ],
)
def test_what_does_not_fit_is_named(shapes, dtype, message) -> None:
    d_out, x = torch.zeros(shapes[0], dtype=dtype), torch.zeros(shapes[1]).bfloat16()
    with pytest.raises(ValueError, match=message):
        weight_gradient(d_out, x, torch.float32, bias=True)


@pytest.mark.parametrize(
    ("x", "weight", "bias", "message"),
    [
        ((4, 5), (3, 2), None, "linear: x has shape"),
        ((4, 2, 1), (3, 2), None, "linear: x has"),
        ((4, 2), (3, 2), (4,), "linear: bias has shape"),
        ((4, 2), (3, 2, 1), None, "weight: got shape"),
    ],
)
def test_operands_that_do_not_fit_are_named(x, weight, bias, message) -> None:
    with pytest.raises(ValueError, match=message):
        linear(torch.zeros(x), torch.zeros(weight), None if bias is None else torch.zeros(bias))


def test_levels_with_tiles_say_so(level: str) -> None:
    assert has_tiles() == level.startswith("amx")
