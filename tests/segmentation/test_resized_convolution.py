"""A convolution of resized maps is that of their concatenation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from transnext_models.dense.convolutions import ConvNorm
from transnext_models.dense.resized_convolution import convolve_resized

SIDES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def literally(maps: list[Tensor], weight: Tensor, bias: Tensor | None) -> Tensor:
    """Resize, concatenate, convolve."""
    size = maps[0].shape[-2:]
    resized = [F.interpolate(x, size, mode="bilinear", align_corners=False) for x in maps]
    return F.conv2d(torch.cat(resized, 1), weight, bias, padding=1)


def made(sizes: list[tuple[int, int]], batch: int = 2) -> tuple[list[Tensor], Tensor, Tensor]:
    """Return maps of 1, 2… channels, a kernel and a bias, in float64."""
    generator = torch.Generator().manual_seed(len(sizes))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    maps = [normal(batch, channels + 1, *size) for channels, size in enumerate(sizes)]
    return maps, normal(4, sum(x.shape[1] for x in maps), 3, 3), normal(4)


@given(st.lists(SIDES, min_size=1, max_size=4), st.booleans())
def test_is_the_convolution_of_the_resized_maps(
    sizes: list[tuple[int, int]], with_bias: bool
) -> None:
    """Of any sizes, larger ones included; borders too. Resizing is by float32 factors."""
    maps, weight, bias = made(sizes)
    expected = literally(maps, weight, bias if with_bias else None)
    found = convolve_resized(maps, weight, bias if with_bias else None)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_convolution() -> None:
    maps, weight, bias = made([(8, 6), (4, 3), (3, 2)])
    inputs = [x.requires_grad_() for x in (*maps, weight, bias)]
    probe = torch.randn(2, 4, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad((literally(maps, weight, bias) * probe).sum(), inputs)
    found = torch.autograd.grad((convolve_resized(maps, weight, bias) * probe).sum(), inputs)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast(dtype: torch.dtype) -> None:
    maps, weight, bias = ([x.float() for x in part] for part in made([(8, 8), (4, 4), (2, 2)]))
    weight, bias = torch.stack(weight), torch.stack(bias)
    expected = literally(maps, weight, bias)
    with torch.autocast("cpu", dtype):
        found = convolve_resized(maps, weight, bias)
    assert found.dtype == dtype
    assert (found.float() - expected).abs().max() < 0.03 * expected.abs().max()


def test_block_finishes_it_with_norm_and_relu() -> None:
    torch.manual_seed(0)
    block = ConvNorm(3, 32, 3, norm="gn", bias=True).double()
    maps, _, _ = made([(8, 6), (4, 3)])
    size = maps[0].shape[-2:]
    resized = F.interpolate(maps[1], size, mode="bilinear", align_corners=False)
    expected = block(torch.cat((maps[0], resized), 1))
    torch.testing.assert_close(block.of_resized(maps), expected, rtol=1e-5, atol=1e-5)
