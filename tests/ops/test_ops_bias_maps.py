"""The axis maps of a position bias: shared by nobody who can see them, checked where they act."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import transnext_ops as ops
from operator_calls import GRID, HEADS, POOL, attention_call

BACKENDS = [name for name in ops.available_backends() if name != "cupy"]
INTERPOLATED = {"train_grid": (4, 4), "train_pool_grid": (2, 2)}
every_form = pytest.mark.parametrize(
    "form", [{}, INTERPOLATED], ids=["extrapolated", "interpolated"]
)
every_backend = pytest.mark.parametrize("backend", BACKENDS)


def mlp(dtype: torch.dtype) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((12, 2), (12,), (HEADS, 12), (HEADS,))
    return tuple(torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes)


def make(dtype: torch.dtype, form: dict[str, Any]) -> ops.PositionBias:
    return ops.position_bias(*mlp(dtype), grid=GRID, pool_grid=POOL, pretrain_grid=(7, 7), **form)


def attend(bias: ops.PositionBias | Tensor, dtype: torch.dtype, backend: str) -> Tensor:
    tensors, sizes = attention_call(dtype)
    return ops.aggregated_attention(**{**tensors, "pool_bias": bias}, **sizes, backend=backend)


@every_backend
@every_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_writing_to_a_bias_changes_no_other(
    dtype: torch.dtype, form: dict[str, Any], backend: str
) -> None:
    before = make(dtype, form)
    expected = attend(before, dtype, backend)
    written = make(dtype, form)
    detached = written.detach()
    written.row_map.copy_(written.row_map.flip(0).clone())
    written.col_map.copy_(written.col_map.flip(0).clone())
    written.col_map.data[0] = written.col_map[-1]
    if written.col_weights is not None:
        written.col_weights.mul_(-1)
    later = make(dtype, form)
    assert not torch.equal(attend(written, dtype, backend), expected)  # it does as it was told
    torch.testing.assert_close(
        attend(written, dtype, backend), attend(written.dense(), dtype, backend)
    )
    for bias in (before, later, detached):
        torch.testing.assert_close(attend(bias, dtype, backend), expected, rtol=0, atol=0)
        torch.testing.assert_close(bias.dense(), before.dense(), rtol=0, atol=0)
    coordinates = ops.bias_coordinates(
        torch.zeros(1, dtype=dtype), grid=GRID, pool_grid=POOL, pretrain_grid=(7, 7), **form
    )
    coordinates.zero_()
    torch.testing.assert_close(make(dtype, form).table, before.table, rtol=0, atol=0)


@every_form
def test_a_bias_keeps_the_maps_it_handed_out(form: dict[str, Any]) -> None:
    bias = make(torch.float32, form)
    assert bias.row_map is bias.row_map
    assert bias.col_map is bias.col_map
    assert bias.detach().row_map is bias.row_map
    for other in (copy.copy(bias), copy.deepcopy(bias), pickle.loads(pickle.dumps(bias))):
        torch.testing.assert_close(other.dense(), bias.dense(), rtol=0, atol=0)
    fresh = copy.deepcopy(make(torch.float32, form))
    fresh.col_map.zero_()
    torch.testing.assert_close(make(torch.float32, form).dense(), bias.dense(), rtol=0, atol=0)


@every_backend
@pytest.mark.parametrize("index", [-1, 10**6, -(2**31), 2**31 - 1])
@pytest.mark.parametrize("name", ["row_map", "col_map"])
def test_a_map_that_was_spoilt_is_refused(name: str, index: int, backend: str) -> None:
    """Also where no version counter tells."""
    bias = make(torch.float32, {})
    getattr(bias, name).data.view(-1)[-1] = index
    with pytest.raises((ValueError, IndexError, RuntimeError), match=r"(?i)ind(ex|ices)|map"):
        attend(bias, torch.float32, backend)
