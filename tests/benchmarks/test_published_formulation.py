"""The benchmark's baseline is the same model: same state dict, same numbers, same gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import transnext_ops as ops
from benchmarks.published.model import PublishedTransNeXt
from benchmarks.published.window import window_av, window_qk
from small_model import ARCHITECTURE, images, small_model

PRETRAIN = 64
# The baseline makes its coordinates in float32, as published; everything after them is float64.
TOLERANCE = 1e-5


def pair(dense: str | None, img_size: int) -> tuple[nn.Module, nn.Module]:
    """The package's model and the published formulation with the same weights, in float64."""
    sizes: dict[str, Any] = {"img_size": img_size, "pretrain_size": PRETRAIN}
    options: dict[str, Any] = {"features_only": True, "position_bias": dense} if dense else {}
    model = small_model(**sizes, **options)
    architecture = {**ARCHITECTURE, **({"num_classes": 0} if dense else {})}
    published = PublishedTransNeXt(**architecture, **sizes, dense=dense).double().eval()
    published.load_state_dict(model.state_dict())
    return model, published


def assert_close(name: str, actual: Tensor, expected: Tensor) -> None:
    # The absolute part is for gradients that are zero but for rounding.
    actual, expected = actual.detach(), expected.detach()
    error, size = float((actual - expected).norm()), float(expected.norm())
    assert error <= TOLERANCE * size + 1e-9, f"{name}: error {error:.2e} of {size:.2e}"


@pytest.mark.parametrize("side", [64, 96])
def test_classifier_agrees(side):
    model, published = pair(None, side)
    x = images(side)
    assert_close("logits", published(x), model(x))


@pytest.mark.parametrize("dense", ["interpolate", "extrapolate"])
def test_backbone_agrees_away_from_its_training_size(dense):
    model, published = pair(dense, 64)
    x = images(72, 104)
    for stage, (actual, expected) in enumerate(zip(published(x), model(x), strict=True)):
        assert actual.shape == expected.shape
        assert_close(f"stage {stage + 1}", actual, expected)


def test_gradients_agree():
    model, published = pair(None, 64)
    x = images(64)
    for candidate in (model, published):
        candidate(x).square().sum().backward()
    gradients = dict(model.named_parameters())
    for name, parameter in published.named_parameters():
        assert_close(name, parameter.grad, gradients[name].grad)


def test_window_products_agree():
    generator = torch.Generator().manual_seed(0)
    grid, window_size, heads = (5, 7), 3, 2
    q, k, v = torch.randn(3, 2, heads, 35, 24, generator=generator, dtype=torch.float64)
    bias = torch.randn(heads, 9, generator=generator, dtype=torch.float64)
    sizes: dict[str, Any] = {"grid": grid, "window_size": window_size}
    logits = window_qk(q, k, bias, **sizes)
    torch.testing.assert_close(logits, ops.window_qk(q, k, bias, **sizes))
    attn = logits.softmax(-1)
    torch.testing.assert_close(window_av(attn, v, **sizes), ops.window_av(attn, v, **sizes))
