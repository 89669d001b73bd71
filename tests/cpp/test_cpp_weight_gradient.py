"""The gradients of a Linear's weight and bias against sums in float64, of tiles and of vectors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from tolerances import assert_agrees
from transnext_ops.weight_gradient import has_tiles, weight_gradient

_cpp = pytest.importorskip("transnext_ops._cpp")

# The portable level's kernel serves all levels without a tile unit.
LEVELS = [
    level
    for level in _cpp.available_cpu_levels()
    if level in ("baseline", "neon") or "amx" in level
]
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
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 4):
            torch.set_num_threads(count)
            found.append(weight_gradient(d_out, x, torch.float32, bias=True))
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


def test_levels_with_tiles_say_so(level: str) -> None:
    assert has_tiles() == level.startswith("amx")
