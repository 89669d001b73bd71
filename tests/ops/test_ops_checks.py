"""Bad input to the public functions: the error names the argument, what came and what is needed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import transnext_ops as ops
from operator_calls import attention_call

Q = torch.zeros(2, 6, 2, 8)
POOLED = torch.zeros(2, 2, 2, 8)


def attention(**changes: Any) -> torch.Tensor:
    arguments: dict[str, Any] = {
        "q": Q, "k": Q, "v": Q, "k_pool": POOLED, "v_pool": POOLED, "grid": (3, 2),
        "pool_grid": (2, 1), "window_size": 3, "scale": torch.ones(2),
    }  # fmt: skip
    return ops.aggregated_attention(**{**arguments, **changes})


def test_the_unchanged_call_is_fine() -> None:
    assert attention().shape == Q.shape


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"q": [1.0]}, TypeError, r"q: got list, needs a torch\.Tensor"),
        ({"q": Q[0]}, ValueError, r"q: got 3 dimensions \[6, 2, 8\], needs 4: \[B, N, h, d\]"),
        ({"q": Q.int()}, TypeError, r"q: got torch\.int32, needs float32"),
        ({"q": Q.to_sparse()}, TypeError, r"q: got layout torch\.sparse_coo"),
        ({"grid": (3, 3)}, ValueError, r"q: got 6 tokens .* needs grid 3x3 = 9"),
        ({"grid": (6,)}, ValueError, r"grid: got 1 values"),
        ({"grid": 6}, TypeError, r"grid: got int, needs a tuple"),
        ({"grid": (3.0, 2)}, TypeError, r"grid: got \(3\.0, 2\)"),
        ({"grid": (0, 6)}, ValueError, r"grid: got 0x6"),
        ({"grid": (-3, -2)}, ValueError, r"grid: got -3x-2"),
        ({"pool_grid": (1, 1)}, ValueError, r"k_pool: got shape \[2, 2, 2, 8\], needs \[B, P, h"),
        ({"window_size": 0}, ValueError, r"window_size: got 0"),
        ({"window_size": 3.0}, TypeError, r"window_size: got 3\.0"),
        ({"window_size": True}, TypeError, r"window_size: got True"),
        ({"k": Q[:1]}, ValueError, r"k: got shape \[1, 6, 2, 8\], needs .* \[2, 6, 2, 8\]"),
        ({"v": Q.double()}, TypeError, r"v: got torch\.float64, needs q's dtype torch\.float32"),
        ({"v": Q.to("meta")}, ValueError, r"v: got device meta, needs q's device cpu"),
        ({"v_pool": POOLED[:, :1]}, ValueError, r"v_pool: got shape"),
        ({"scale": 1.0}, TypeError, r"scale: got float"),
        ({"scale": torch.ones(2, 1, 1)}, ValueError, r"scale: got shape \[2, 1, 1\], needs \[h\]"),
        ({"scale": torch.ones(2).int()}, TypeError, r"scale: got torch\.int32"),
        ({"query_embedding": torch.ones(2, 1, 8)}, ValueError, r"query_embedding: got shape"),
        ({"local_bias": torch.ones(2, 4)}, ValueError, r"local_bias: .* needs \[h, L\] = \[2, 9\]"),
        ({"tokens": torch.ones(2, 9, 8)}, ValueError, r"tokens: .*\[h, d, L\] = \[2, 8, 9\]"),
        ({"token_bias": torch.ones(9)}, ValueError, r"token_bias: got shape \[9\]"),
        ({"pool_bias": torch.ones(2, 2, 6)}, ValueError, r"pool_bias: .*\[h, N, P\] = \[2, 6, 2\]"),
        ({"backend": "fast"}, ValueError, r"backend: got 'fast'"),
    ],
)
def test_aggregated_attention(changes: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        attention(**changes)


def test_a_position_bias_of_another_grid() -> None:
    tensors, _ = attention_call()
    with pytest.raises(ValueError, match=r"pool_bias: got a PositionBias of grid \(5, 4\)"):
        attention(pool_bias=tensors["pool_bias"])


def make_position_bias(**changes: Any) -> ops.PositionBias:
    arguments: dict[str, Any] = {
        "table": torch.zeros(2, 3, 4),
        "row_map": torch.zeros(3, 2, dtype=torch.int32),
        "col_map": torch.zeros(2, 1, 1, dtype=torch.int32),
    }
    return ops.PositionBias(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"table": torch.zeros(3, 4)}, ValueError, "table: got 2 dimensions"),
        ({"table": torch.zeros(2, 3, 4).int()}, TypeError, "table: got torch.int32"),
        ({"row_map": torch.zeros(3, 2)}, TypeError, "row_map: got torch.float32"),
        ({"row_map": torch.full((3, 2), 3).int()}, ValueError, "row_map: .*0 to 2, got 3 to 3"),
        ({"col_map": torch.full((2, 1, 1), -1).int()}, ValueError, "col_map: .*got -1 to -1"),
        ({"col_map": torch.zeros(2, 0, 1).int()}, ValueError, "col_map: .*got none"),
        ({"col_map": torch.zeros(2, 1, 4).int()}, ValueError, "col_weights: got None"),
        ({"col_weights": torch.zeros(2, 1)}, ValueError, "col_weights: got shape"),
        ({"row_map": "no"}, TypeError, "row_map: got str"),
    ],
)
def test_position_bias_by_hand(changes: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        make_position_bias(**changes)


def test_position_bias_by_hand_works() -> None:
    bias = make_position_bias(table=torch.arange(24.0).view(2, 3, 4))
    torch.testing.assert_close(
        bias.dense(), torch.tensor([0.0, 12.0])[:, None, None].expand(2, 6, 2)
    )
    assert attention(pool_bias=bias).shape == Q.shape


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.window_qk(Q, Q[:1], grid=(1, 2), window_size=3), ValueError, "k: got shape"),
        (lambda: ops.window_qk(Q, Q, grid=(2, 2), window_size=3), ValueError, "q: got 2 tokens"),
        (
            lambda: ops.window_qk(Q, Q, torch.ones(2, 9), grid=(1, 2), window_size=3),
            ValueError,
            r"bias: got shape \[2, 9\], needs \[h, L\] = \[6, 9\]",
        ),
        (lambda: ops.window_av(Q, Q, grid=(1, 2), window_size=3), ValueError, "attn: got shape"),
        (
            lambda: ops.conv_glu(torch.ones(1, 4, 3), torch.ones(1, 1, 3, 3), grid=(2, 2)),
            ValueError,
            r"x: got 3 channels, needs an even number",
        ),
        (
            lambda: ops.conv_glu(torch.ones(1, 4, 4), torch.ones(4, 1, 3, 3), grid=(2, 2)),
            ValueError,
            r"weight: .* = \[2, 1, 3, 3\]",
        ),
        (
            lambda: ops.gelu_pool(torch.ones(1, 4, 4), grid=(2, 2), pool_grid=(3, 1)),
            ValueError,
            "pool_grid: got 3x1, needs at most the grid 2x2",
        ),
        (
            lambda: ops.global_attention(Q, Q, Q, grid=(3, 2), scale=torch.ones(3)),
            ValueError,
            "scale: got shape",
        ),
        (
            lambda: ops.global_attention(
                Q, Q, Q, grid=(3, 2), scale=torch.ones(2), bias=torch.ones(2, 6, 5)
            ),
            ValueError,
            r"bias: .*= \[2, 6, 6\]",
        ),
        (
            lambda: ops.position_bias(
                torch.ones(4, 3), torch.ones(4), torch.ones(2, 4), torch.ones(2),
                grid=(2, 2), pool_grid=(1, 1), pretrain_grid=(2, 2),
            ),
            ValueError,
            r"fc1_weight: .*= \[4, 2\]",
        ),
        (
            lambda: ops.position_bias(
                torch.ones(4, 2), torch.ones(4), torch.ones(2, 4), torch.ones(2),
                grid=(2, 2), pool_grid=(1, 1), pretrain_grid=(2, 2), train_grid=(2, 2),
            ),
            ValueError,
            "train_pool_grid: got None",
        ),
    ],
)  # fmt: skip
def test_other_operators(call, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_parameters_may_have_the_activations_type() -> None:
    half = {name: Q.half() for name in ("q", "k", "v")}
    out = attention(
        **half, k_pool=POOLED.half(), v_pool=POOLED.half(), scale=torch.ones(2).half(),
        local_bias=torch.ones(2, 9).half(),
    )  # fmt: skip
    assert out.dtype == torch.float16


def test_a_custom_op_refuses_a_backend_that_is_none_of_its_own() -> None:
    with pytest.raises(ValueError, match="needs one of"):
        torch.ops.transnext.gelu_pool(torch.ones(1, 4, 4), [2, 2], [1, 1], "torch")
