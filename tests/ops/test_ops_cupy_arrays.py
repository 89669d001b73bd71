"""CuPy arrays in and out of the public functions, with a stand-in for cupy's array."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import transnext_ops as ops
from operator_calls import operator_calls


class Array:
    """A foreign array that speaks DLPack."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __dlpack__(self, **keywords: Any) -> Any:
        return self.tensor.__dlpack__(**keywords)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.tensor.__dlpack_device__()


@pytest.fixture(autouse=True)
def cupy(monkeypatch) -> SimpleNamespace:
    module = SimpleNamespace(ndarray=Array, from_dlpack=lambda x: Array(torch.from_dlpack(x)))
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def as_arrays(value: Any) -> Any:
    return Array(value) if isinstance(value, Tensor) else value


TENSORS_OF_THEIR_OWN = ("position_bias", "add_layer_norm")  # see below


@pytest.mark.parametrize("op", [op for op in operator_calls() if op not in TENSORS_OF_THEIR_OWN])
def test_arrays_give_an_array_of_the_same_numbers(op: str) -> None:
    function, tensors, keywords = operator_calls()[op]
    expected = function(*tensors, **keywords)
    arrays = [as_arrays(tensor) for tensor in tensors]
    out = function(*arrays, **{name: as_arrays(value) for name, value in keywords.items()})
    assert isinstance(out, Array)
    torch.testing.assert_close(out.tensor, expected, rtol=0, atol=0)


def test_memory_is_shared(monkeypatch) -> None:
    x = torch.randn(1, 4, 8)
    seen: list[Tensor] = []
    module = sys.modules["transnext_ops.operators.gelu_pool"]  # ops.gelu_pool is its function
    monkeypatch.setattr(module, "run", lambda op, first, *_: seen.append(first) or first)
    out = ops.gelu_pool(Array(x), grid=(2, 2), pool_grid=(1, 1))
    assert seen[0].data_ptr() == x.data_ptr()
    assert out.tensor.data_ptr() == x.data_ptr()


def test_a_mixture_gives_an_array_without_gradient() -> None:
    weight = torch.randn(3, 1, 3, 3, requires_grad=True)
    out = ops.conv_glu(Array(torch.randn(1, 4, 6)), weight, grid=(2, 2))
    assert isinstance(out, Array)
    assert not out.tensor.requires_grad


def test_tensors_stay_tensors() -> None:
    x = torch.randn(1, 4, 8, requires_grad=True)
    out = ops.gelu_pool(x, grid=(2, 2), pool_grid=(1, 1))
    assert isinstance(out, Tensor)
    assert out.requires_grad


def test_several_results_are_several_arrays() -> None:
    _, tensors, _ = operator_calls()["add_layer_norm"]
    arrays = ops.add_layer_norm(*map(Array, tensors))
    for array, tensor in zip(arrays, ops.add_layer_norm(*tensors), strict=True):
        assert isinstance(array, Array)
        torch.testing.assert_close(array.tensor, tensor, rtol=0, atol=0)


def test_position_bias_is_of_tensors() -> None:
    function, tensors, keywords = operator_calls()["position_bias"]
    table = function(*(Array(tensor) for tensor in tensors), **keywords)
    torch.testing.assert_close(table, function(*tensors, **keywords), rtol=0, atol=0)


def test_without_cupy_nothing_is_looked_for() -> None:
    code = (
        "import sys, torch, transnext_ops as ops\n"
        "ops.gelu_pool(torch.randn(1, 4, 8), grid=(2, 2), pool_grid=(1, 1))\n"
        "assert 'cupy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
