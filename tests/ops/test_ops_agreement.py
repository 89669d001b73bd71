"""Every backend against the NumPy reference: values and gradients of every operator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import transnext_ops as ops
from agreement import (
    EVERYTHING,
    check_attention,
    check_conv_glu,
    check_gelu_pool,
    check_position_bias,
    check_window_av,
    check_window_qk,
    edge,
    leaves,
)
from strategies import (
    AttentionCase,
    TokenCase,
    attention_cases,
    dtypes,
    grids,
    heads,
    seeds,
    token_cases,
)

BACKENDS = [name for name in ops.available_backends() if name != "cupy"]
backends = pytest.mark.parametrize("backend", BACKENDS)


@backends
@given(case=attention_cases())
@example(case=EVERYTHING)
@example(case=edge(bias="interpolated", dtype=torch.float64))
@example(case=edge(bias="interpolated", dtype=torch.bfloat16))
@example(case=edge(grid=(1, 1), pool_grid=(1, 1), window_size=5))
@example(case=edge(grid=(1, 9), pool_grid=(1, 9), window_size=4))
@example(case=edge(grid=(9, 1), pool_grid=(4, 1), batch=0))
@example(case=edge(magnitude="extreme logits"))
@example(case=edge(magnitude="zero vectors", layout="sliced"))
@example(case=edge(head_dim=8, heads=1))
@example(case=edge(head_dim=128, dtype=torch.float16))
def test_aggregated_attention(backend: str, case: AttentionCase) -> None:
    check_attention(case, backend)


@backends
@given(case=attention_cases(window=st.just(0)))
@example(case=edge(window_size=0, pool_grid=(7, 6)))
@example(case=edge(window_size=0, grid=(1, 1), pool_grid=(1, 1)))
@example(case=edge(window_size=0, pool_grid=(7, 6), bias="interpolated", dtype=torch.float16))
def test_global_attention(backend: str, case: AttentionCase) -> None:
    check_attention(case, backend)


@backends
@given(case=attention_cases(), options=st.booleans())
def test_pixel_focused_attention_is_aggregated_attention_without_its_additions(
    backend: str, case: AttentionCase, options: bool
) -> None:
    tensors = case.tensors()
    for name in ("query_embedding", "tokens", "token_bias"):
        tensors.pop(name)
    if not options:
        tensors["local_bias"] = tensors["pool_bias"] = None
    sizes = {"grid": case.grid, "pool_grid": case.pool_grid, "window_size": case.window_size}
    out = ops.pixel_focused_attention(**tensors, **sizes, backend=backend)
    same = ops.aggregated_attention(**tensors, **sizes, backend=backend)
    torch.testing.assert_close(out, same, rtol=0, atol=0, equal_nan=True)


@backends
@given(case=token_cases())
def test_window_qk(backend: str, case: TokenCase) -> None:
    check_window_qk(case, backend)


@backends
@given(case=token_cases())
def test_window_av(backend: str, case: TokenCase) -> None:
    check_window_av(case, backend)


@backends
def test_window_av_ignores_weights_outside_the_image(backend: str) -> None:
    attn = torch.rand(1, 1, 6, 9)
    v = torch.randn(1, 1, 6, 4)
    sizes = {"grid": (2, 3), "window_size": 3}
    expected = ops.window_av(attn, v, **sizes, backend=backend)
    outside = torch.isinf(ops.window_qk(v, v, **sizes, backend=backend))
    for poison in (float("inf"), float("nan")):
        poisoned = attn.masked_fill(outside, poison).requires_grad_()
        out = ops.window_av(poisoned, v, **sizes, backend=backend)
        torch.testing.assert_close(out, expected, rtol=0, atol=0)
        out.sum().backward()
        assert poisoned.grad is not None
        assert (poisoned.grad[outside] == 0).all()


@backends
@given(case=token_cases(channels=st.sampled_from((24, 1, 5, 8, 33))))
def test_conv_glu(backend: str, case: TokenCase) -> None:
    check_conv_glu(case, backend)


@backends
@given(case=token_cases())
def test_gelu_pool(backend: str, case: TokenCase) -> None:
    check_gelu_pool(case, backend)


@backends
@given(
    grid=grids,
    pool=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    pretrain=grids,
    train=st.one_of(st.none(), st.tuples(grids, st.tuples(st.floats(0, 1), st.floats(0, 1)))),
    head_count=heads,
    hidden=st.sampled_from((1, 16, 37)),
    dtype=st.sampled_from((torch.float32, torch.float64)),
    seed=seeds,
)
@example((6, 5), (0.5, 0.5), (7, 7), ((4, 4), (0.4, 0.4)), 2, 16, torch.float64, 0)
@example((1, 1), (0.0, 0.0), (1, 1), ((9, 9), (1.0, 1.0)), 1, 16, torch.float32, 0)
def test_position_bias(
    backend: str, grid, pool, pretrain, train, head_count, hidden, dtype, seed
) -> None:
    check_position_bias(backend, grid, pool, pretrain, train, head_count, hidden, dtype, seed)


@backends
@given(dtype=dtypes, seed=seeds)
def test_only_the_gradients_asked_for_are_computed(backend: str, dtype, seed) -> None:
    case = edge(dtype=dtype, seed=seed, bias="dense", layout="contiguous")
    tensors = case.tensors()
    asked = {
        name
        for name, chosen in zip(
            sorted(tensors), np.random.default_rng(seed).random(len(tensors)) < 0.4, strict=True
        )
        if chosen
    } or {"v"}
    sizes = {"grid": case.grid, "pool_grid": case.pool_grid, "window_size": case.window_size}
    every = leaves(tensors)
    some = {name: value.detach().requires_grad_(name in asked) for name, value in every.items()}
    for inputs in (every, some):
        ops.aggregated_attention(**inputs, **sizes, backend=backend).sum().backward()
    for name, value in some.items():
        assert (value.grad is not None) == (name in asked)
        if value.grad is not None:
            torch.testing.assert_close(value.grad, every[name].grad)  # sums may differ in order
