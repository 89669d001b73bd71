"""Recorded launches executed on the CPU from PTX, every access, barrier and race checked.

Needs a C++ compiler, for the PTX emulator (tools/ptxemu).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tools.kernel_report import emulator as ptxemu
from tools.made_once import made_once
from transnext_ops.backends import kernel_sources

ROOT = Path(__file__).resolve().parents[2]


def emulator() -> ModuleType:
    """Import the emulator, or skip the test that asks for it."""
    if (reason := ptxemu.unavailable(ROOT)) is not None:
        pytest.skip(reason)
    return ptxemu.load(ROOT)


def kept(name: str, make: Callable[[], str]) -> str:
    """Return compiled text, made once per version of the kernels' source and kept in ``build``."""
    key = hashlib.sha256(f"{kernel_sources.digest()} {name}".encode()).hexdigest()[:24]
    path = ROOT / "build" / "ptx" / f"{key}.txt"
    return made_once(path, lambda part: part.write_text(make())).read_text()


def memory_of(tensor: Tensor) -> np.ndarray:
    """Return the bytes from a tensor's first to its last element, a view of its whole storage."""
    whole = ptxemu.memory_of(tensor.untyped_storage())
    last = sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    begin = tensor.storage_offset() * tensor.element_size()
    return whole[begin : begin + (last + 1) * tensor.element_size()]


class Execution:
    """Runs kernels, and remembers which ran and what the emulator counted."""

    def __init__(self) -> None:
        self.results: list[tuple[str, Any]] = []  # kernel and the emulator's result
        self.most_blocks: int | None = None  # a smaller grid than planned, for kernels that step on
        self.outputs: set[int] | None = None  # storages that kernels may write; None for all

    def launch(
        self,
        module: Any,
        kernel: str,
        entry: str,
        plan: tuple[tuple[int, ...], tuple[int, ...], int],
        params: bytes,
        tensors: Sequence[Tensor | None],
    ) -> None:
        """Run one kernel, `entry` of an emulator's module; any diagnostic is an error."""
        grid, block, shared = plan
        if self.most_blocks is not None:
            grid = (min(grid[0], self.most_blocks), *grid[1:])
        memory = []
        for tensor in tensors:
            if tensor is not None and tensor.numel() > 0:
                array = memory_of(tensor)
                array.flags.writeable = (
                    self.outputs is None or tensor.untyped_storage().data_ptr() in self.outputs
                )
                memory.append(array)
        argument = ptxemu.translated(params, memory, module)
        try:
            result = module.launch(
                entry, grid=grid, block=block, shared=shared, args=[argument], strict=True,
                global_races=True,
            )  # fmt: skip
        finally:
            module.release()
        self.results.append((kernel, result))

    def kernels(self) -> set[str]:
        return {kernel for kernel, _ in self.results}


def fill_new_tensors_with_nan(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Let nothing pass that a kernel did not write: new memory holds NaN. Return its addresses."""
    new_empty, empty, empty_like = Tensor.new_empty, torch.empty, torch.empty_like
    made: set[int] = set()

    def filled(tensor: Tensor) -> Tensor:
        made.add(tensor.untyped_storage().data_ptr())
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(Tensor, "new_empty", lambda self, *a, **k: filled(new_empty(self, *a, **k)))
    monkeypatch.setattr(torch, "empty", lambda *a, **k: filled(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: filled(empty_like(*a, **k)))
    return made
