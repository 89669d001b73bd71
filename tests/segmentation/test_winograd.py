"""Winograd's convolution is the convolution, and stands in for it in inference alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from transnext_models.dense import winograd
from transnext_models.dense.winograd import (
    Convolution3x3,
    convolve_3x3,
    winograd_3x3,
    winograd_kernel,
)


def made(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Return a map ``[B, C, H, W]``, and a kernel and a bias to three channels."""
    generator = torch.Generator().manual_seed(sum(shape))
    shapes = (shape, (3, shape[1], 3, 3), (3,))
    x, weight, bias = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return x.to(dtype), weight.to(dtype), bias.to(dtype)


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 14), st.integers(1, 14)),
    st.booleans(),
    st.sampled_from([1, 2, 5, 256]),
)
def test_is_the_convolution(shape: tuple[int, ...], with_bias: bool, block: int) -> None:
    """Of any sides, in blocks of rows and of images."""
    x, weight, bias = made(*shape)
    wanted = bias if with_bias else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "_BLOCK", block)
        found = winograd_3x3(x, winograd_kernel(weight), wanted)
    assert found.is_contiguous()
    torch.testing.assert_close(found, F.conv2d(x, weight, wanted, padding=1))


def test_float32_rounds_little() -> None:
    x, weight, bias = made(1, 256, 32, 40, dtype=torch.float32)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    error = (
        winograd_3x3(x, winograd_kernel(weight), bias) - expected
    ).abs().max() / expected.abs().max()
    assert error < 2e-5


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Record what Winograd's algorithm is used for, however small."""
    seen: list[Tensor] = []

    def record(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
        seen.append(x)
        return winograd_3x3(x, kernel, bias)

    monkeypatch.setattr(winograd, "winograd_3x3", record)
    monkeypatch.setattr(winograd, "_LEAST_CHANNELS", 1)
    monkeypatch.setattr(winograd, "_LEAST_CELLS", 64)
    return seen


def test_stands_in_where_no_gradient_is_needed(calls: list[Tensor]) -> None:
    torch.manual_seed(0)
    layer, x = Convolution3x3(2, 3), torch.randn(1, 2, 8, 8)
    direct = layer(x)
    assert direct.requires_grad
    assert not calls
    with torch.no_grad():
        torch.testing.assert_close(layer(x), direct, rtol=1e-4, atol=1e-5)
    assert len(calls) == 1


@torch.no_grad()
def test_does_not_stand_in_elsewhere(calls: list[Tensor]) -> None:
    x, weight, bias = made(1, 2, 8, 8, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert convolve_3x3(x, weight, bias).dtype == torch.bfloat16
    convolve_3x3(x.double(), weight.double(), bias.double())  # whose users want more digits
    convolve_3x3(x[..., :4], weight, bias)  # few cells
    torch.jit.trace(convolve_3x3, (x, weight, bias), check_trace=False)
    assert not calls


def test_layer_is_a_convolution_of_torch() -> None:
    """Its names, its shapes and its start."""
    torch.manual_seed(0)
    ours = Convolution3x3(4, 6)
    torch.manual_seed(0)
    theirs = torch.nn.Conv2d(4, 6, 3, padding=1)
    assert isinstance(ours, torch.nn.Conv2d)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value)
