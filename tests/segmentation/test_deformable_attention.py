"""Deformable attention against its formula in NumPy, float64, one sample at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import transnext_reference
from transnext_models.dense import transformer_layers
from transnext_models.dense.deformable_attention import (
    DeformableAttention,
    cell_centres,
)
from transnext_models.dense.transformer_layers import DeformableEncoderLayer

SHAPES = ((5, 7), (3, 2), (1, 4))
CELLS = sum(rows * columns for rows, columns in SHAPES)


def attention_by_hand(
    layer: DeformableAttention, query: np.ndarray, value: np.ndarray, reference: np.ndarray
) -> np.ndarray:
    """Attend: ``query [B, N, C]``, ``value [B, S, C]``, ``reference [B, N, L, 2 or 4]``."""
    weights = {name: p.detach().double().numpy() for name, p in layer.named_parameters()}

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def by_head(x: np.ndarray, *rest: int) -> np.ndarray:
        return x.reshape(*x.shape[:2], layer.num_heads, -1, *rest)

    out = transnext_reference.deformable_attention(
        by_head(linear("value_proj", value)),
        by_head(linear("sampling_offsets", query), 2),
        by_head(linear("attention_weights", query)),
        reference,
        shapes=SHAPES,
    )
    return linear("output_proj", out.reshape(*out.shape[:2], -1))


def random_layer() -> DeformableAttention:
    layer = DeformableAttention(12, num_heads=3, num_levels=3, num_points=2).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return layer


@pytest.mark.parametrize("numbers", [2, 4], ids=["points", "boxes"])
@pytest.mark.parametrize("training", [True, False])
def test_attention_is_the_formula(numbers: int, training: bool) -> None:
    torch.manual_seed(0)
    layer = random_layer()
    query, value = torch.randn(2, 4, 12).double(), torch.randn(2, CELLS, 12).double()
    reference = torch.rand(2, 4, 3, numbers).double()

    with torch.set_grad_enabled(training):
        actual = layer(query, value, reference, SHAPES)

    expected = attention_by_hand(layer, query.numpy(), value.numpy(), reference.numpy())
    np.testing.assert_allclose(actual.detach().numpy(), expected, atol=1e-10)


def test_padding_counts_as_zero() -> None:
    torch.manual_seed(1)
    layer = random_layer()
    query, value = torch.randn(1, 4, 12).double(), torch.randn(1, CELLS, 12).double()
    reference = torch.rand(1, 4, 3, 2).double()
    padding = torch.rand(1, CELLS) < 0.4
    changed = torch.where(padding[..., None], 100.0, value)

    torch.testing.assert_close(
        layer(query, value, reference, SHAPES, padding),
        layer(query, changed, reference, SHAPES, padding),
    )
    with torch.no_grad():
        layer.value_proj.bias.zero_()
    zeroed = value.masked_fill(padding[..., None], 0.0)
    torch.testing.assert_close(
        layer(query, value, reference, SHAPES, padding),
        layer(query, zeroed, reference, SHAPES),
    )


def test_gradients_are_right() -> None:
    torch.manual_seed(2)
    layer = random_layer()
    query, value = torch.randn(1, 2, 12).double(), torch.randn(1, CELLS, 12).double()
    inputs = (query, value, torch.rand(1, 2, 3, 4).double())

    def attend(*tensors: torch.Tensor) -> torch.Tensor:
        return layer(*tensors, SHAPES)

    assert torch.autograd.gradcheck(attend, tuple(x.requires_grad_() for x in inputs))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_locations(dtype: torch.dtype) -> None:
    """Autocast and models of half precision sample at the places of float32."""
    torch.manual_seed(3)
    layer = random_layer().float()
    query, value = torch.randn(1, 4, 12), torch.randn(1, CELLS, 12)
    reference = torch.rand(1, 4, 3, 2)
    expected = layer(query, value, reference, SHAPES)

    with torch.autocast("cpu", dtype):
        cast = layer(query, value, reference, SHAPES)
    halved = layer.to(dtype)(query.to(dtype), value.to(dtype), reference, SHAPES)

    for actual in (cast, halved):
        assert actual.dtype == dtype
        error = (actual.float() - expected).abs().max() / expected.abs().max()
        assert error < 8 * torch.finfo(dtype).eps


def test_initialisation_looks_around() -> None:
    layer = DeformableAttention(16, num_heads=4, num_levels=2, num_points=3)
    offsets = layer.sampling_offsets.bias.view(4, 2, 3, 2)
    directions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    for point in range(3):
        expected = ((point + 1) * directions)[:, None].expand(-1, 2, -1)
        torch.testing.assert_close(offsets[:, :, point], expected, atol=1e-6, rtol=0)
    assert not layer.attention_weights.weight.any()


def test_cell_centres() -> None:
    centres = cell_centres(((2, 1), (1, 2)), torch.zeros(()))
    assert centres.tolist() == [[0.5, 0.25], [0.5, 0.75], [0.25, 0.5], [0.75, 0.5]]


def test_errors_name_what_is_needed() -> None:
    layer = random_layer()
    query, value = torch.randn(1, 4, 12).double(), torch.randn(1, CELLS, 12).double()
    reference = torch.rand(1, 4, 3, 2).double()
    with pytest.raises(ValueError, match="shapes: got 2 levels, needs 3"):
        layer(query, value, reference, SHAPES[:2])
    with pytest.raises(ValueError, match=f"value: got {CELLS - 1} cells"):
        layer(query, value[:, 1:], reference, SHAPES)
    with pytest.raises(ValueError, match="reference: got 3 numbers"):
        layer(query, value, torch.rand(1, 4, 3, 3).double(), SHAPES)
    with pytest.raises(ValueError, match="embed_dim: got 10, needs a multiple of num_heads=3"):
        DeformableAttention(10, num_heads=3)


@torch.no_grad()
def test_an_encoder_layer_by_rows_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(4)
    layer = DeformableEncoderLayer(12, 20, num_heads=3, num_levels=3, num_points=2).double()
    for parameter in layer.parameters():
        parameter.add_(0.5 * torch.randn_like(parameter))
    x, position = torch.randn(2, CELLS, 12).double(), torch.randn(1, CELLS, 12).double()
    reference = cell_centres(SHAPES, x).double()[None, :, None].expand(2, -1, 3, -1)
    padding = torch.rand(2, CELLS) < 0.3
    with torch.enable_grad():
        expected = layer(x, position, reference, SHAPES, padding)
    monkeypatch.setattr(transformer_layers, "_ROWS", 10)  # five queries of two images
    torch.testing.assert_close(layer(x, position, reference, SHAPES, padding), expected.detach())
    seen = []
    layer.self_attn.register_forward_hook(lambda *arguments: seen.append(arguments))
    torch.testing.assert_close(layer(x, position, reference, SHAPES, padding), expected.detach())
    assert len(seen) == 1
