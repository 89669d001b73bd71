"""The CUDA backends on a GPU against the NumPy reference: chosen and drawn cases, model's sizes.

python -m pytest tests/gpu -n 8            # HYPOTHESIS_PROFILE=long for a thousand examples each
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, reject
from hypothesis import strategies as st

pytest.importorskip("transnext_ops._cpp")

import transnext_ops as ops
from agreement import (
    check_attention,
    check_conv_glu,
    check_gelu_pool,
    check_position_bias,
    edge,
)
from ptx_cases import CASES, EDGES_OF_ATTENTION
from strategies import (
    AttentionCase,
    PositionBiasCase,
    TokenCase,
    attention_cases,
    position_bias_cases,
)
from tf32_agreement import check_attention_on_tf32
from token_operators import TokenOperator, token_operators
from transnext_ops.backends import cpp_backend, registry

DTYPES = cpp_backend.CUDA_DTYPES

storage = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).rpartition(".")[2])


RUNNABLE = [
    pytest.param(check, id=f"{op}-{i}")
    for op in registry.OPERATORS
    for i, check in enumerate(CASES[op].values())
]


@storage
@pytest.mark.parametrize("check", RUNNABLE)
def test_every_kernel(backend, check, dtype) -> None:
    """Between them these cases run every instance of every kernel."""
    check(backend, dtype)


def check_where_it_fits(case: AttentionCase) -> None:
    try:
        check_attention(case, "cpp")
    except ops.BackendError as error:
        if "do not fit into the shared memory" not in str(error):
            raise
        reject()


@storage
@given(data=st.data())
def test_aggregated_attention(dtype: torch.dtype, data: st.DataObject) -> None:
    check_where_it_fits(data.draw(attention_cases(dtype=st.just(dtype))))


@storage
@given(data=st.data())
def test_global_attention(dtype: torch.dtype, data: st.DataObject) -> None:
    check_where_it_fits(data.draw(attention_cases(window=st.just(0), dtype=st.just(dtype))))


@given(
    case=attention_cases(
        window=st.sampled_from((3, 0, 1, 2, 4, 7)), dtype=st.just(torch.float32),
        head_dim=st.sampled_from((24, 8, 16, 9)),
    )
)  # fmt: skip
def test_attention_on_tf32(case: AttentionCase) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("TF32 needs compute capability 8.0")
    check_attention_on_tf32(case, "cpp")


@storage
@pytest.mark.parametrize(
    "changes",
    [
        *EDGES_OF_ATTENTION,
        {"grid": (56, 56), "pool_grid": (7, 7), "batch": 1, "heads": 1},  # Tiny's stages at 224
        {"grid": (28, 28), "pool_grid": (7, 7), "batch": 2},
        {"grid": (14, 14), "pool_grid": (7, 7), "heads": 3},
        {"grid": (7, 7), "pool_grid": (7, 7), "window_size": 0, "heads": 3},
        {"grid": (50, 80), "pool_grid": (25, 40), "batch": 1, "heads": 1},  # P of 800x1280
        {"grid": (25, 40), "pool_grid": (25, 40), "batch": 1, "heads": 1, "window_size": 0},
    ],
    ids=str,
)
def test_edges_of_attention(backend, dtype: torch.dtype, changes: dict) -> None:
    check_attention(edge(dtype=dtype, **changes), backend)


@storage
@token_operators
@given(data=st.data())
def test_token_operators(operator: TokenOperator, dtype: torch.dtype, data: st.DataObject) -> None:
    operator.check(data.draw(operator.cases(st.just(dtype))), "cpp")


@storage
@pytest.mark.parametrize("check", [check_conv_glu, check_gelu_pool], ids=["conv_glu", "gelu_pool"])
def test_edges_of_tokens(backend, check, dtype: torch.dtype) -> None:
    """More tiles than one in every direction, and the sizes of Tiny's first stage."""
    case = TokenCase(
        batch=2, grid=(23, 11), pool_grid=(5, 4), channels=200, dtype=dtype, layout="sliced", seed=0
    )
    for changes in ({}, {"layout": "packed"}, {"grid": (56, 56), "pool_grid": (7, 7)}):
        check(replace(case, **changes), backend)


@given(case=position_bias_cases(hidden=(1, 16, 37, 512)))
@example(case=PositionBiasCase((6, 5), (0.5, 0.5), (7, 7), None, 2, 300, 0))
def test_position_bias(case: PositionBiasCase) -> None:
    check_position_bias(case, "cpp")
