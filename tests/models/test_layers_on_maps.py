"""Blocks on maps: those of the model, at any size, with the published arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from transnext_models import create_model
from transnext_models.layers import (
    AggregatedAttention,
    ConvolutionalGLU,
    GlobalAttention,
    OnMaps,
    PixelFocusedAttention,
)


def test_a_block_of_the_model_is_the_same_on_maps() -> None:
    """Stage 3 of a backbone, rebuilt of blocks on maps, gives its map, at other sizes too."""
    torch.manual_seed(0)
    for options, extrapolates in (
        ({"position_bias": "extrapolate"}, True),
        ({"img_size": 96}, False),
    ):
        model = create_model("transnext_pico", features_only=True, **options).eval()
        side = (model.pretrain_size if extrapolates else model.img_size) // 16
        model.pretrain_size = side * 16
        blocks = [OnMaps(block, (side, side), 2, extrapolates) for block in model.block3]
        for size in ((64, 64), (96, 160)):
            with torch.no_grad():
                maps = model(torch.randn(2, 3, *size))
                tokens, grid = model.patch_embed3(maps[1])
                x = tokens.transpose(1, 2).unflatten(2, grid)
                for block in blocks:
                    x = block(x)
                x = model.norm3(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            torch.testing.assert_close(x, maps[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("built", "kind"),
    [
        (lambda: OnMaps.attention(48, (8, 8), 2, 3, True, 0.1, 0.1, 4), AggregatedAttention),
        (
            lambda: OnMaps.attention(48, (8, 8), num_heads=2, is_extrapolation=False),
            GlobalAttention,
        ),
        (lambda: OnMaps(PixelFocusedAttention(48, 2), (8, 8), 2), PixelFocusedAttention),
        (lambda: OnMaps.conv_glu(48, 96), ConvolutionalGLU),
    ],
)
def test_modules_take_maps_of_any_size_and_layout(built: Any, kind: type[nn.Module]) -> None:
    module = built().eval()
    assert type(module.module) is kind
    for size in ((8, 8), (7, 13), (1, 1), (30, 2)):
        x = torch.randn(2, 48, *size)
        out = module(x)
        assert out.shape == x.shape
        again = module(x.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(again, out)
        assert module(x[:0]).shape == (0, 48, *size)


def test_training_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    module = OnMaps.block(48, 2, (8, 8), qkv_bias=True, drop_path=0.1, sr_ratio=4)
    module(torch.randn(8, 48, 9, 11)).square().mean().backward()
    assert [name for name, parameter in module.named_parameters() if parameter.grad is None] == []


def test_widths_of_the_glu_are_those_of_the_published_class() -> None:
    module = OnMaps.conv_glu(64, 256, 32)
    assert module(torch.randn(1, 64, 5, 6)).shape == (1, 32, 5, 6)
    assert module.module.fc2.in_features == 170  # int(2 * 256 / 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: OnMaps(nn.Identity()), TypeError, "module: got Identity, needs an attention"),
        (lambda: OnMaps(GlobalAttention(48, 2)), ValueError, "input_resolution: got None"),
        (lambda: OnMaps(GlobalAttention(48, 2), (8, 8), 2), ValueError, "sr_ratio: got 2, needs 1"),
        (lambda: OnMaps(GlobalAttention(48, 2), (8, 8), 0), ValueError, "sr_ratio: got 0, needs"),
        (lambda: OnMaps.attention(48, 20, 2), TypeError, "input_resolution"),
        (lambda: OnMaps.conv_glu(48)(torch.zeros(1, 64, 48)), ValueError, r"x: got \(1, 64, 48\)"),
    ],
)
def test_mistakes_are_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
