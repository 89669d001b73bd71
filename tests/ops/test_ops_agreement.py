"""Every backend against the NumPy reference: values and gradients of every operator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import agreement
import transnext_ops as ops
from agreement import EVERYTHING, check_attention, check_position_bias, edge, leaves
from strategies import (
    AttentionCase,
    PositionBiasCase,
    attention_cases,
    dtypes,
    position_bias_cases,
    seeds,
)
from token_operators import TokenOperator, token_operators

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
@token_operators
@given(data=st.data())
def test_token_operators(backend: str, operator: TokenOperator, data: st.DataObject) -> None:
    operator.check(data.draw(operator.cases()), backend)


@backends
def test_window_av_ignores_weights_outside_the_image(backend: str) -> None:
    agreement.check_window_av_ignores_weights_outside_the_image(backend)


_double = torch.float64


@backends
@given(case=position_bias_cases(dtype=st.sampled_from((torch.float32, torch.float64))))
@example(case=PositionBiasCase((6, 5), (0.5, 0.5), (7, 7), ((4, 4), (0.4, 0.4)), 2, 16, 0, _double))
@example(case=PositionBiasCase((1, 1), (0.0, 0.0), (1, 1), ((9, 9), (1.0, 1.0)), 1, 16, 0))
def test_position_bias(backend: str, case: PositionBiasCase) -> None:
    check_position_bias(case, backend)


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
