"""Hostile arguments of every ``torch.ops.transnext`` operator: an exception or a right result, and
never a crash.

That nothing outside a tensor is touched meanwhile, AddressSanitizer sees: it runs this file with
the whole binding module (``cpp/tests/run_module_sanitizers.sh``).
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._pytree import tree_leaves

import transnext_ops as ops
from custom_op_calls import branch_op_calls, custom_op_calls
from hostile import SAME, NotMade, made, replacements
from transnext_ops.backends import launches

pytest.importorskip("transnext_ops._cpp")

CALLS: dict[tuple[str, str], tuple[Any, ...]] = {
    **{(name, "cpp"): call for name, call in custom_op_calls("cpp").items()},
    **{(name, "cpp"): call for name, call in branch_op_calls().items()},
    **{(name, "reference"): call for name, call in custom_op_calls("reference").items()},
}
every_call = pytest.mark.parametrize("call", list(CALLS), ids=" ".join)


class NoKernels:
    """Plans for a GPU and runs nothing: the host code of the CUDA kernels, on hostile arguments."""

    def architecture(self, device: torch.device) -> int:
        return 90

    def run(self, op: str, launches: Any, tensors: Sequence[Tensor | None]) -> None:
        assert launches.kernels


def run(name: str, arguments: Sequence[Any]) -> list[Any]:
    return tree_leaves(getattr(torch.ops.transnext, name)(*arguments))


def attempt(name: str, arguments: Sequence[Any]) -> None:
    """Call an operator; only an exception that says something may come out of it."""
    raised: Exception | None = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            run(name, arguments)
        except Exception as error:
            raised = error
    if raised is None:
        return
    frames = traceback.extract_tb(raised.__traceback__)
    ours = "transnext" in frames[-1].filename
    # PyTorch itself asserts that it knows a tensor's layout.
    assert not (ours and isinstance(raised, AssertionError)), repr(raised)
    assert not isinstance(raised, SystemError), repr(raised)
    assert str(raised) or not ours


def expect_unharmed(call: tuple[str, str], expected: list[Tensor]) -> None:
    for result, right in zip(run(call[0], CALLS[call]), expected, strict=True):
        torch.testing.assert_close(result, right, rtol=0, atol=0, equal_nan=True)


@every_call
def test_one_hostile_argument(call: tuple[str, str]) -> None:
    expected = run(call[0], CALLS[call])
    for position, value in enumerate(CALLS[call]):
        for _, other in replacements(value):
            arguments = list(CALLS[call])
            try:
                arguments[position] = made(other, value)
            except NotMade:
                continue
            attempt(call[0], arguments)
    expect_unharmed(call, expected)


@every_call
@settings(max_examples=60)
@given(data=st.data())
def test_several_hostile_arguments(call: tuple[str, str], data: st.DataObject) -> None:
    arguments = list(CALLS[call])
    positions = st.lists(st.integers(0, len(arguments) - 1), min_size=2, max_size=4, unique=True)
    for position in data.draw(positions):
        value = arguments[position]
        choices = replacements(value)
        _, other = choices[data.draw(st.integers(0, len(choices) - 1))]
        try:
            arguments[position] = made(other, value)
        except NotMade:
            continue
    attempt(call[0], arguments)


@pytest.mark.parametrize("name", [name for name, backend in CALLS if backend == "cpp"])
def test_hostile_arguments_of_what_is_planned_for_a_gpu(name: str) -> None:
    with launches.use_runner(NoKernels()):
        for position, value in enumerate(CALLS[name, "cpp"]):
            for _, other in replacements(value):
                arguments = list(CALLS[name, "cpp"])
                try:
                    arguments[position] = made(other, value)
                except NotMade:
                    continue
                attempt(name, arguments)


@every_call
def test_the_same_numbers_in_other_guises(call: tuple[str, str]) -> None:
    """Strides, alignment, the negative bit and subclasses change nothing."""
    name, arguments = call[0], CALLS[call]
    expected = run(name, arguments)
    for position, value in enumerate(arguments):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        for guise, change in SAME.items():
            if value.dim() == 1 and guise in ("every second", "in wide memory"):
                continue  # packed weights are contiguous; other vectors in the test below
            changed = [*arguments[:position], change(value), *arguments[position + 1 :]]
            for result, right in zip(run(name, changed), expected, strict=True):
                torch.testing.assert_close(
                    result.as_subclass(Tensor).detach(), right, equal_nan=True,
                    msg=lambda text, p=position, g=guise: f"argument {p}, {g}: {text}",
                )  # fmt: skip


@pytest.mark.parametrize("guise", SAME)
def test_vectors_in_other_guises(guise: str) -> None:
    for call in (("conv_glu", "cpp"), ("position_bias_table", "cpp")):
        arguments = CALLS[call]
        expected = run(call[0], arguments)
        changed = [
            SAME[guise](value) if isinstance(value, Tensor) and value.dim() == 1 else value
            for value in arguments
        ]
        for result, right in zip(run(call[0], changed), expected, strict=True):
            torch.testing.assert_close(result.as_subclass(Tensor).detach(), right)


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_a_storage_that_was_freed_is_refused(backend: str) -> None:
    x = torch.randn(2, 20, 6)
    x.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="needs its memory"):
        ops.gelu_pool(x, grid=(5, 4), pool_grid=(2, 2), backend=backend)
