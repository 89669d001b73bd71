"""Training: drop rates, checkpointing, precision, backends, attention dropout."""

from __future__ import annotations

import pytest
import torch

import transnext_ops as ops
from small_model import images, small_model
from transnext_models.layers import DropPath, StageGrids
from transnext_models.layers.attention_dropout import attention_with_dropout


def gradients(model, x) -> dict[str, torch.Tensor]:
    model.zero_grad()
    x = x.clone().requires_grad_()
    result = model(x)
    results = result if isinstance(result, list) else [result]
    sum(y.square().sum() for y in results).backward()
    return {name: p.grad for name, p in model.named_parameters()} | {"image": x.grad}


@pytest.mark.parametrize("options", [{}, {"features_only": True, "out_indices": (0, 2)}])
def test_every_parameter_gets_a_gradient(options):
    for name, gradient in gradients(small_model(**options).train(), images()).items():
        assert gradient is not None, name
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("options", [{}, {"attention": "pixel_focused", "drop_path_rate": 0.5}])
def test_gradient_checkpointing_changes_nothing(options):
    model, x = small_model(**options).train(), images()
    torch.manual_seed(0)
    expected = gradients(model, x)
    model.set_grad_checkpointing()
    torch.manual_seed(0)
    for name, gradient in gradients(model, x).items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


def test_gradient_checkpointing_runs_each_block_again_in_the_backward():
    model, x = small_model().train(), images()
    calls = []
    for stage in model.stages():
        for block in stage.blocks:
            block.register_forward_pre_hook(lambda *_: calls.append(1))
    gradients(model, x)
    assert len(calls) == 5
    model.set_grad_checkpointing()
    gradients(model, x)
    assert len(calls) == 5 + 10
    model.set_grad_checkpointing(False)
    gradients(model, x)
    assert len(calls) == 5 + 10 + 5


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_the_backend_of_a_model_runs_every_operator(monkeypatch, backend):
    """Also in gradient checkpointing's second forward, which runs outside any context."""
    from transnext_ops.backends import registry

    asked = set()
    original = registry.choose

    def spy(requested, op, *call):
        asked.add((requested, op))
        return original(requested, op, *call)

    monkeypatch.setattr(registry, "choose", spy)
    model, x = small_model(backend=backend).train(), images(32)
    model.set_grad_checkpointing()
    expected = gradients(small_model().train(), x)
    asked.clear()
    actual = gradients(model, x)
    assert {requested for requested, _ in asked} == {backend}
    assert {op for _, op in asked} == {
        "aggregated_attention",
        "position_bias_table",
        "conv_glu",
        "gelu_pool",
    }
    for name, gradient in actual.items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


def test_the_backend_can_be_changed_and_reset():
    model, x = small_model(backend="reference"), images(32)
    expected = model(x)
    model.set_backend("torch")
    assert model.block1[0].mlp.backend == "torch"
    torch.testing.assert_close(model(x), expected)
    model.set_backend(None)
    assert model.block4[0].attn.backend is None
    with pytest.raises(ValueError, match="abacus"):
        model.set_backend("abacus")
    if "cupy" not in ops.available_backends():
        with pytest.raises(ops.BackendError, match="cupy"):
            small_model(backend="cupy")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    model, x = small_model().float(), images().float()
    expected = gradients(model, x)
    reference = model(x).detach()
    with torch.autocast("cpu", dtype=dtype):
        result = model(x)
    assert result.dtype == dtype
    error = (result.float() - reference).norm() / reference.norm()
    assert 0 < error < 0.05
    model.zero_grad()
    result.float().square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all(), name
    bias = model.block4[0].mlp.fc2.bias
    assert torch.cosine_similarity(bias.grad, expected["block4.0.mlp.fc2.bias"], dim=0) > 0.99


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_weights(dtype):
    model, x = small_model(), images()
    with torch.no_grad():
        expected = model(x)
        model = model.to(dtype)
        result = model(x.to(dtype))
        assert result.dtype == dtype
        assert 0 < (result.double() - expected).norm() / expected.norm() < 0.1
        # Scale and position bias keep float32 whatever the weights are.
        attn = model.block2[0].attn
        assert attn.scale().dtype == torch.float32
        grids = model.stage_grids(1, (8, 8))
        assert attn.position_bias(grids).table.dtype == torch.float32


def test_drop_path_keeps_the_mean_and_drops_whole_samples():
    drop, x = DropPath(0.25).train(), torch.ones(4000, 3, 2)
    torch.manual_seed(0)
    y = drop(x)
    per_sample = y.flatten(1)
    assert ((per_sample == 0).all(1) | (per_sample == 1 / 0.75).all(1)).all()
    assert (per_sample[:, 0] == 0).double().mean().item() == pytest.approx(0.25, abs=0.035)
    assert torch.equal(drop.eval()(x), x)
    assert torch.equal(DropPath(0.0).train()(x), x)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_residual_branch_computes_kept_samples_alone(rate, dtype):
    drop, layer = DropPath(rate).train(), torch.nn.Linear(3, 3)
    counts = []

    def branch(x):
        counts.append(len(x))
        return layer(x)

    for seed in range(20):
        x = torch.randn(4, 5, 3, requires_grad=True)
        both = []
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            for function in (
                lambda x: drop.residual(x, branch),
                lambda x: x + drop(layer(x)),
            ):
                torch.manual_seed(seed)
                y = function(x)
                gradients = torch.autograd.grad(y.square().sum(), (x, *layer.parameters()))
                both.append((y, *gradients))
        tolerance = 1e-5 if dtype == torch.float32 else 0.2
        for actual, expected in zip(*both, strict=True):
            assert actual.dtype == expected.dtype
            torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    assert max(counts) == 4
    assert min(counts) == (4 if rate == 0 else 1)


def test_blocks_leave_dropped_samples_out_unless_a_hook_would_see_it():
    model = small_model(drop_path_rate=0.6).train()
    block = model.block4[-1]
    sizes = []
    forward = block.mlp._forward
    block.mlp._forward = lambda x, grid: sizes.append(len(x)) or forward(x, grid)
    x = images().repeat(4, 1, 1, 1)
    for _ in range(10):
        model(x)
    assert min(sizes) < len(x)
    sizes.clear()
    with block.mlp.fc1.register_forward_hook(lambda *_: None):
        for _ in range(10):
            model(x)
    assert set(sizes) == {len(x)}


def test_drop_rates_act_in_training_only():
    plain, x = small_model(), images()
    for rate in ("drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"):
        model = small_model(**{rate: 0.5})
        torch.testing.assert_close(model(x), plain(x))
        torch.manual_seed(0)
        first = model.train()(x)
        assert not torch.allclose(first, plain(x)), rate
        assert not torch.allclose(model(x), first), rate
        torch.manual_seed(0)
        torch.testing.assert_close(model(x), first)


def attention_inputs(grids: StageGrids, window_size: int, heads: int = 2, dim: int = 8):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    tokens = grids.grid[0] * grids.grid[1]
    pooled = grids.pool_grid[0] * grids.pool_grid[1]
    cells = window_size**2
    bias = ops.position_bias(draw(16, 2), draw(16), draw(heads, 16), draw(heads), **grids._asdict())
    local = {
        "local_bias": draw(heads, cells),
        "tokens": draw(heads, dim, cells),
        "token_bias": draw(heads, cells),
    }
    inputs = [draw(2, tokens, heads, dim) for _ in range(3)]
    inputs += [draw(2, pooled, heads, dim) for _ in range(2)]
    common = {
        "grid": grids.grid,
        "scale": draw(heads).exp(),
        "query_embedding": draw(heads, dim),
    }
    return inputs, common, local, bias


@pytest.mark.parametrize("window_size", [2, 3, 5])
@pytest.mark.parametrize(("grid", "pool_grid"), [((5, 7), (2, 3)), ((1, 4), (1, 2))])
def test_attention_with_dropout_is_the_fused_attention_at_rate_zero(grid, pool_grid, window_size):
    grids = StageGrids(grid, pool_grid, (7, 7))
    inputs, common, local, bias = attention_inputs(grids, window_size)
    keywords = {**common, **local, "pool_bias": bias}
    keywords |= {"pool_grid": pool_grid, "window_size": window_size}
    torch.testing.assert_close(
        attention_with_dropout(*inputs, **keywords, dropout=0.0),
        ops.aggregated_attention(*inputs, **keywords),
    )


def test_global_attention_with_dropout_is_the_fused_attention_at_rate_zero():
    grids = StageGrids((3, 4), (3, 4), (7, 7))
    (q, k, v, *_), common, _, bias = attention_inputs(grids, 3)
    torch.testing.assert_close(
        attention_with_dropout(
            q, None, None, k, v, **common, pool_bias=bias, pool_grid=(3, 4), window_size=0,
            dropout=0.0,
        ),
        ops.global_attention(q, k, v, **common, bias=bias),
    )  # fmt: skip


def test_attention_dropout_drops_that_share_of_the_weights_and_keeps_the_mean():
    grids = StageGrids((12, 12), (3, 3), (12, 12))
    inputs, common, local, bias = attention_inputs(grids, 3)
    inputs[2], inputs[4] = torch.ones_like(inputs[2]), torch.ones_like(inputs[4])  # values
    keywords = {**common, "local_bias": local["local_bias"], "pool_bias": bias}
    keywords |= {"pool_grid": (3, 3), "window_size": 3}
    torch.manual_seed(0)
    kept = torch.stack(
        [attention_with_dropout(*inputs, **keywords, dropout=0.3) for _ in range(40)]
    )
    assert kept.mean().item() == pytest.approx(1.0, abs=0.01)
    assert kept.std() > 0.1


def test_attention_dropout_runs_under_autocast():
    model = small_model(attn_drop_rate=0.1).float().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = model(images().float())
    result.float().sum().backward()
    assert result.isfinite().all()
