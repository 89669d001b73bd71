"""The blocks that the report's calls launch, from the launch plans; nothing runs."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tools.kernel_report.compilers import CompiledKernel
from tools.kernel_report.occupancy import occupancy
from tools.kernel_report.subjects import Subject, subjects
from transnext_ops.backends import launches


@dataclass(frozen=True)
class Block:
    """Threads and dynamic shared memory of a kernel's block."""

    threads: int
    shared_bytes: int

    def occupancy(self, kernel: CompiledKernel) -> float:
        """Return the theoretical occupancy of a kernel launched with this block."""
        shared_bytes = kernel.shared_bytes + self.shared_bytes
        return occupancy(kernel.architecture, kernel.registers, self.threads, shared_bytes)


def planned(subject: Subject, dtype: torch.dtype, architecture: int) -> dict[str, set[Block]]:
    """Return the blocks of each kernel that a call launches; none where it has no kernel."""
    runner = _Recorder(architecture)
    with launches.use_runner(runner):
        try:
            subject.call(dtype)
        except ValueError as error:
            if "no CUDA kernel" not in str(error):
                raise
    return runner.blocks


@functools.cache
def blocks(sizes: tuple[str, ...], architecture: int) -> dict[str, set[Block]]:
    """Return the blocks of each kernel in all calls at these image sizes."""
    found: dict[str, set[Block]] = {}
    for size in sizes:
        for subject in subjects(size):
            for dtype in subject.dtypes:
                for kernel, its in planned(subject, dtype, architecture).items():
                    found.setdefault(kernel, set()).update(its)
    return found


def worst(kernel: CompiledKernel, its: Iterable[Block]) -> tuple[Block, float] | None:
    """Return the block of least occupancy."""
    rated = [(block, block.occupancy(kernel)) for block in its]
    return min(rated, key=lambda pair: pair[1]) if rated else None


class _Recorder:
    """A runner of launches that runs nothing."""

    def __init__(self, architecture: int) -> None:
        self.blocks: dict[str, set[Block]] = {}
        self._architecture = architecture

    def architecture(self, device: torch.device) -> int:
        return self._architecture

    def run(self, op: str, launches: Any, tensors: Sequence[Tensor | None]) -> None:
        for kernel, _, block, shared_bytes, _ in launches.kernels:
            threads = block[0] * block[1] * block[2]
            self.blocks.setdefault(kernel, set()).add(Block(threads, shared_bytes))
