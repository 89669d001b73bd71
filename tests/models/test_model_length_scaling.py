"""The length scale of attention kept at its value at the training size."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import transnext_ops as ops
import transnext_reference as reference
from golden_data import FLOAT64_TOLERANCE, max_relative_error
from small_model import images, small_model
from transnext_models import create_model
from transnext_models.layers.attention_dropout import attention_with_dropout
from transnext_models.layers.length_scale import (
    aggregated_attention_at_length,
    global_attention_at_length,
    window_cells,
)
from transnext_reference import attention

BACKENDS = ["torch", "cpp", "reference"]


def draws(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def query_by_query(q, k, v, k_pool, v_pool, *, keys, grid, window_size, scale, pool_bias):
    """Attention with log(window cells + keys), one query after the other, in NumPy."""
    q, k, v, k_pool, v_pool, scale, bias = (
        x.numpy() for x in (q, k, v, k_pool, v_pool, scale, pool_bias)
    )

    def unit(x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    height, width = grid
    radius = window_size // 2
    out = np.zeros_like(q)
    for b, n, h in np.ndindex(q.shape[:3]):
        row, column = divmod(n, width)
        window = [
            y * width + x
            for y in range(row - radius, row - radius + window_size)
            for x in range(column - radius, column - radius + window_size)
            if 0 <= y < height and 0 <= x < width
        ]
        query = unit(q[b, n, h]) * scale[h] * math.log(len(window) + keys)
        near = unit(k[b, window, h]) @ query
        far = unit(k_pool[b, :, h]) @ query + bias[h, n]
        logits = np.concatenate([near, far])
        weights = np.exp(logits - logits.max())
        weights /= weights.sum()
        out[b, n, h] = weights @ np.concatenate([v[b, window, h], v_pool[b, :, h]])
    return out


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("window_size", [2, 3, 5])
@pytest.mark.parametrize("grid", [(6, 7), (1, 4), (2, 2)])
@pytest.mark.parametrize("keys", [1, 4, 49])
def test_is_attention_with_another_logarithm(backend, window_size, grid, keys):
    tokens, pool_grid = grid[0] * grid[1], (1, 2)
    q, k, v, k_pool, v_pool, scale, bias = draws(
        *[(2, tokens, 2, 8)] * 3, *[(2, 2, 2, 8)] * 2, (2,), (2, tokens, 2)
    )
    keywords = {"grid": grid, "window_size": window_size, "scale": scale.exp(), "pool_bias": bias}
    wanted = query_by_query(q, k, v, k_pool, v_pool, keys=keys, **keywords)
    keywords |= {"pool_grid": pool_grid, "backend": backend}
    got = aggregated_attention_at_length(q, k, v, k_pool, v_pool, training_keys=keys, **keywords)
    np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("grid", [(3, 4), (1, 1)])
@pytest.mark.parametrize("keys", [1, 7])
def test_is_global_attention_with_another_logarithm(backend, grid, keys):
    tokens = grid[0] * grid[1]
    q, k, v, scale = draws(*[(2, tokens, 2, 8)] * 3, (2,))
    logits = F.normalize(q, dim=-1).transpose(1, 2) @ F.normalize(k, dim=-1).permute(0, 2, 3, 1)
    logits = logits * scale.exp()[:, None, None] * math.log(keys)
    wanted = (logits.softmax(-1) @ v.transpose(1, 2)).transpose(1, 2)
    got = global_attention_at_length(
        q, k, v, training_keys=keys, grid=grid, scale=scale.exp(), backend=backend
    )
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


def test_dropout_at_rate_zero_is_the_same():
    grid, pool_grid = (5, 6), (2, 3)
    q, k, v, k_pool, v_pool, scale = draws(*[(2, 30, 2, 8)] * 3, *[(2, 6, 2, 8)] * 2, (2,))
    bias = ops.position_bias(
        *draws((16, 2), (16,), (2, 16), (2,)), grid=grid, pool_grid=pool_grid, pretrain_grid=(7, 7)
    )
    keywords = {"grid": grid, "pool_grid": pool_grid, "window_size": 3, "scale": scale.exp()}
    keywords |= {"pool_bias": bias, "training_keys": 49}
    torch.testing.assert_close(
        attention_with_dropout(q, k, v, k_pool, v_pool, dropout=0.0, **keywords),
        aggregated_attention_at_length(q, k, v, k_pool, v_pool, **keywords),
    )


def test_counts_the_window_cells_inside_the_image():
    counts = window_cells((3, 4), 3, torch.device("cpu")).view(3, 4)
    assert counts.tolist() == [[4, 6, 6, 4], [6, 9, 9, 6], [4, 6, 6, 4]]


@pytest.mark.parametrize(
    "options", [{}, {"fixed_pool_size": 2}, {"sr_ratios": (16, 8, 4, 2), "pretrain_size": 128}]
)
def test_models_agree_at_the_training_size_and_nowhere_else(options):
    options = {"img_size": 96, **options}
    published = small_model(**options)
    kept = small_model(**options, length_scaling="training")
    with torch.no_grad():
        for size in (96, 192):
            x = images(size)
            difference = max_relative_error(kept(x).numpy(), published(x).numpy())
            assert (difference <= FLOAT64_TOLERANCE) == (size == 96), size


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"img_size": 224}, [49, 49, 49, 49]),
        ({"img_size": 100}, [9, 9, 9, 16]),  # grids 25, 13, 7, 4
        ({"img_size": 224, "fixed_pool_size": 5}, [25, 25, 25, 49]),
    ],
)
def test_keys_are_those_of_the_training_size(options, keys):
    model = small_model(**options, length_scaling="training")
    assert [stage.blocks[0].attn.training_keys for stage in model.stages()] == keys


@pytest.mark.parametrize("size", [(64, 64), (128, 96), (75, 130), (32, 32)])
def test_the_model_is_the_reference_with_that_logarithm(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference's scale, which it multiplies by log(its keys), is divided by that first."""
    keys = 4  # of every stage at 64 x 64
    attend = attention._attend

    def at_training_length(inputs):
        window = inputs.inside.sum(axis=1)  # [N]
        pooled = inputs.k_pool.shape[1]
        of_call = np.log(window + pooled)  # 0 for one key: its weight is 1, whatever its logit
        ratio = np.log(window + keys) / np.where(of_call == 0, 1, of_call)
        return attend(dataclasses.replace(inputs, scale=ratio[:, None] * inputs.scale))

    monkeypatch.setattr(attention, "_attend", at_training_length)
    model = small_model(img_size=64, length_scaling="training")
    assert {block.attn.training_keys for stage in model.stages() for block in stage.blocks} == {4}
    x = images(*size)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    wanted = reference.forward(weights, x.numpy(), img_size=64)
    with torch.no_grad():
        got = model(x).numpy()
    assert max_relative_error(got, wanted) <= FLOAT64_TOLERANCE


def test_gradients_flow_and_the_model_is_traceable():
    model = create_model("transnext_pico", img_size=64, length_scaling="training").eval()
    x = torch.randn(1, 3, 96, 96)
    traced = torch.fx.symbolic_trace(model)
    with torch.no_grad():
        torch.testing.assert_close(traced(x), model(x), rtol=1e-4, atol=1e-5)
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_an_unknown_scaling_is_an_error():
    with pytest.raises(ValueError, match="length_scaling: got 'none', needs one of"):
        create_model("transnext_pico", length_scaling="none")
