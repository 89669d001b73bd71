"""Axis maps changed after a call has checked them: no CUDA kernel reads or writes outside its
tensors.

On a GPU a map cannot be looked at when the call is made, and anybody may write to it before the
kernels run. Here the runner does so between the two; the emulation finds every access that leaves a
tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transnext_ops._cpp")

from emulated import EmulatedKernels, Library

from strategies import Numbers
from transnext_ops.backends import cpp_backend
from transnext_ops.backends.launches import use_runner

GRID, POOL, HEADS, DIM = (11, 19), (2, 3), 2, 8


def whole_range(shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(-(2**31), 2**31 - 1, shape, generator=generator).int()


def stepping_from(first: int) -> Callable[[tuple[int, ...]], Tensor]:
    """Return maps that grow by one from row to row, as extrapolation's, which kernels look for."""

    def fill(shape: tuple[int, ...]) -> Tensor:
        steps = torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1))
        return (first + steps).int().expand(shape)

    return fill


CHANGES = {
    "any": whole_range,
    "far beyond": stepping_from(500_000_000),
    "before": stepping_from(-500_000_000),
    "a little before": stepping_from(-3),
    "over the end": stepping_from(9),
    "largest": stepping_from(2**31 - 1 - 64),
}


class ChangingKernels(EmulatedKernels):
    """Writes to the maps, which are among the tensors, before the kernels run."""

    def __init__(self, library: Library, capability: int, change: Callable[..., Tensor]) -> None:
        super().__init__(library, capability)
        self.change = change

    def run(self, op: str, launches: Any, tensors: Any) -> None:
        maps = [each for each in tensors if each is not None and each.dtype == torch.int32]
        assert len(maps) == 2
        before = [each.clone() for each in maps]
        for each in maps:
            each.copy_(self.change(tuple(each.shape)))
        super().run(op, launches, tensors)
        for each, values in zip(maps, before, strict=True):
            each.copy_(values)


def attention_arguments(dtype: torch.dtype, window: int, table: tuple[int, int]) -> tuple:
    numbers = Numbers(2)
    length, pooled = GRID[0] * GRID[1], POOL[0] * POOL[1]

    def tokens(count: int) -> Tensor:
        return numbers.activation(1, count, HEADS, DIM, dtype=dtype)

    local = (tokens(length), tokens(length)) if window else (None, None)
    steps = [torch.arange(size, dtype=torch.int32) for size in GRID]
    row_map = steps[0][:, None] + torch.zeros(POOL[0], dtype=torch.int32)
    col_map = steps[1][:, None, None] + torch.zeros(POOL[1], 1, dtype=torch.int32)
    if table != (GRID[0] + 1, GRID[1] + 1):
        row_map, col_map = torch.zeros_like(row_map), torch.zeros_like(col_map)
    return (
        tokens(length), *local, tokens(pooled), tokens(pooled), torch.ones(HEADS), None, None,
        numbers.parameter(HEADS, *table, dtype=dtype), row_map, col_map, None, None, None,
        GRID, POOL, window,
    )  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("table", [(GRID[0] + 1, GRID[1] + 1), (2, 3)], ids=str)
@pytest.mark.parametrize(
    ("window", "dtype", "capability"),
    [
        (3, torch.float32, 75),
        (3, torch.bfloat16, 90),
        (0, torch.float32, 90),
        (0, torch.bfloat16, 80),
    ],
)
def test_no_access_leaves_a_tensor(
    kernels: Library, change, table, window, dtype, capability
) -> None:
    arguments = attention_arguments(dtype, window, table)
    needs = [True, window > 0, window > 0, True, True, True, False, False, True, False, False]
    with use_runner(ChangingKernels(kernels, capability, CHANGES[change])):
        out, log_sum_exp = cpp_backend.aggregated_attention(*arguments)
        assert bool(out.isfinite().all())
        for deterministic in (False, True):
            torch.use_deterministic_algorithms(deterministic)
            try:
                gradients = cpp_backend.aggregated_attention_backward(
                    out, out, log_sum_exp, *arguments, needs
                )
            finally:
                torch.use_deterministic_algorithms(False)
            assert all(each.isfinite().all() for each in gradients if each is not None)
