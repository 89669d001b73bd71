"""Deformable attention against its formula in NumPy, float64, one sample at a time."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transnext_models.dense import deformable_gathering, transformer_layers
from transnext_models.dense.deformable_attention import (
    DeformableAttention,
    cell_centres,
    deformable_sampling,
)
from transnext_models.dense.transformer_layers import FeedForward

SHAPES = ((5, 7), (3, 2), (1, 4))
CELLS = sum(rows * columns for rows, columns in SHAPES)


def bilinear(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """Return ``image [H, W, D]`` at (x, y) in cells, zero outside."""
    left, top = math.floor(x), math.floor(y)
    value = np.zeros(image.shape[2])
    for row, column in itertools.product((top, top + 1), (left, left + 1)):
        if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
            value += (1 - abs(y - row)) * (1 - abs(x - column)) * image[row, column]
    return value


def attention_by_hand(
    layer: DeformableAttention, query: np.ndarray, value: np.ndarray, reference: np.ndarray
) -> np.ndarray:
    """Attend of one image: ``query [N, C]``, ``value [S, C]``, ``reference [N, L, 2 or 4]``."""
    weights = {name: p.detach().double().numpy() for name, p in layer.named_parameters()}

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    heads, levels, points = layer.num_heads, layer.num_levels, layer.num_points
    projected = linear("value_proj", value).reshape(CELLS, heads, -1)
    starts = np.cumsum([0, *(rows * columns for rows, columns in SHAPES)])
    offsets = linear("sampling_offsets", query).reshape(-1, heads, levels, points, 2)
    logits = linear("attention_weights", query).reshape(-1, heads, levels * points)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    shares = shares.reshape(-1, heads, levels, points)
    out = np.zeros((len(query), heads, projected.shape[2]))
    for n, h, level, p in itertools.product(*map(range, shares.shape)):
        rows, columns = SHAPES[level]
        image = projected[starts[level] : starts[level + 1], h].reshape(rows, columns, -1)
        sides = np.array([columns, rows])
        if reference.shape[-1] == 2:
            place = reference[n, level] * sides + offsets[n, h, level, p]
        else:
            box = reference[n, level]
            place = (box[:2] + offsets[n, h, level, p] / points * box[2:] / 2) * sides
        x, y = place - 0.5  # cell i has its centre at i + 0.5
        out[n, h] += shares[n, h, level, p] * bilinear(image, x, y)
    return linear("output_proj", out.reshape(len(query), -1))


def random_layer() -> DeformableAttention:
    layer = DeformableAttention(12, num_heads=3, num_levels=3, num_points=2).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return layer


@pytest.mark.parametrize("numbers", [2, 4], ids=["points", "boxes"])
def test_attention_is_the_formula(numbers: int) -> None:
    torch.manual_seed(0)
    layer = random_layer()
    query, value = torch.randn(2, 4, 12).double(), torch.randn(2, CELLS, 12).double()
    reference = torch.rand(2, 4, 3, numbers).double()

    actual = layer(query, value, reference, SHAPES)

    for image in range(2):
        expected = attention_by_hand(
            layer, query[image].numpy(), value[image].numpy(), reference[image].numpy()
        )
        np.testing.assert_allclose(actual[image].detach().numpy(), expected, atol=1e-10)


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
    value = torch.randn(1, CELLS, 2, 3).double().requires_grad_()
    locations = torch.rand(1, 2, 2, 3, 2, 2).double().requires_grad_()
    weights = torch.rand(1, 2, 2, 3, 2).double().requires_grad_()

    def sampling(*tensors: torch.Tensor) -> torch.Tensor:
        return deformable_sampling(tensors[0], SHAPES, tensors[1], tensors[2])

    assert torch.autograd.gradcheck(sampling, (value, locations, weights))


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


SIDES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def sampled(shapes: list[tuple[int, int]], batch: int, queries: int) -> list[torch.Tensor]:
    """Return values, places (many outside) and weights of 3 heads and 2 points, in float64."""
    generator = torch.Generator().manual_seed(batch + queries)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    cells = sum(rows * columns for rows, columns in shapes)
    places = 0.5 + 0.6 * normal(batch, queries, 3, len(shapes), 2, 2)
    return [normal(batch, cells, 3, 4), places, normal(batch, queries, 3, len(shapes), 2)]


@given(st.lists(SIDES, min_size=1, max_size=4), st.integers(1, 3), st.integers(0, 7))
def test_gathering_gives_what_sampling_does(
    shapes: list[tuple[int, int]], batch: int, queries: int
) -> None:
    value, places, weights = sampled(shapes, batch, queries)
    gathered = deformable_sampling(value, shapes, places, weights)
    sampling = deformable_sampling(value.requires_grad_(), shapes, places, weights)
    assert sampling.requires_grad
    torch.testing.assert_close(gathered, sampling)


def test_gathering_in_blocks_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = sampled([(5, 7), (2, 3)], 2, 7)
    value, places, weights = inputs
    whole = deformable_sampling(value, ((5, 7), (2, 3)), places, weights)
    monkeypatch.setattr(deformable_gathering, "_BLOCK", 50)
    blocks = deformable_sampling(value, ((5, 7), (2, 3)), places, weights)
    torch.testing.assert_close(blocks, whole)


@torch.no_grad()
@pytest.mark.parametrize("numbers", [2, 4], ids=["points", "boxes"])
def test_layers_in_blocks_give_the_same(monkeypatch: pytest.MonkeyPatch, numbers: int) -> None:
    """Queries of deformable attention, and rows of an FFN."""
    torch.manual_seed(4)
    layer, feed = random_layer(), FeedForward(12, 20).double()
    query, value = torch.randn(2, 7, 12).double(), torch.randn(2, CELLS, 12).double()
    reference = torch.rand(2, 7, 3, numbers).double()
    expected = layer(query, value, reference, SHAPES), feed(query)
    monkeypatch.setattr(deformable_gathering, "_BLOCK", 80)  # two queries of two images
    monkeypatch.setattr(transformer_layers, "_ROWS", 5)
    torch.testing.assert_close((layer(query, value, reference, SHAPES), feed(query)), expected)


def test_places_that_are_no_numbers_count_nothing() -> None:
    value, places, weights = sampled([(5, 7)], 1, 3)
    places[0, 0, 0] = torch.tensor([math.nan, math.inf])
    assert deformable_sampling(value, ((5, 7),), places, weights)[0, 0, :4].eq(0).all()
