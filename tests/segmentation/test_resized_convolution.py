"""A convolution of resized maps is that of their concatenation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from transnext_models.dense import convolutions, winograd
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


class TestBatchNormIsPartOfTheConvolution:
    """In inference, of weights as they are at the call."""

    @staticmethod
    def block(kernel: int, *, bias: bool = False) -> ConvNorm:
        torch.manual_seed(0)
        block = ConvNorm(3, 4, kernel, bias=bias).double().train()
        for parameter in block.parameters():
            nn.init.normal_(parameter)
        for _ in range(3):  # statistics other than the first ones
            block(3 * torch.randn(2, 3, 8, 6, dtype=torch.float64) + 1)
        return block.eval()

    @pytest.mark.parametrize("kernel", [1, 3])
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("least", [1, 10**6], ids=["winograd", "direct"])
    def test_gives_the_same(
        self, monkeypatch: pytest.MonkeyPatch, kernel: int, bias: bool, least: int
    ) -> None:
        monkeypatch.setattr(winograd, "_LEAST_CHANNELS", 1)
        monkeypatch.setattr(winograd, "_LEAST_CELLS", least)
        monkeypatch.setattr(convolutions, "_CHANNELS", 3)  # of four
        block = self.block(kernel, bias=bias).float()
        maps = [x.float() for x in made([(8, 6), (4, 3)])[0]]
        x = torch.randn(2, 3, 8, 6)
        calls = [lambda: block(x)]
        if kernel == 3:
            calls.append(lambda: block.of_resized(maps))
        for call in calls:
            expected = call().detach()
            assert expected.shape == (2, 4, 8, 6)
            with torch.no_grad():
                torch.testing.assert_close(call(), expected, rtol=1e-4, atol=1e-4)
                assert len(block.derived) > 0
                for change in (block.conv.weight, block.bn.running_mean, block.bn.bias):
                    change.data.mul_(1.5)
                    plainly = block.bn(block.conv(x)).relu()
                    torch.testing.assert_close(block(x), plainly, rtol=1e-4, atol=1e-4)

    @torch.no_grad()
    def test_not_where_it_would_be_seen(self) -> None:
        block, x = self.block(3), torch.randn(2, 3, 8, 6, dtype=torch.float64)
        seen: list[Tensor] = []
        hook = block.bn.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
        block(x)
        torch.testing.assert_close(seen[0], block.conv(x))
        hook.remove()
        block(x)
        assert len(seen) == 1
        block.train()(x)
        assert len(block.derived) == 0
        before = block.bn.running_mean.clone()
        block(x)
        assert not torch.equal(before, block.bn.running_mean)
