"""Kernels executed on the CPU from their PTX, for what a launch moves and computes.

Needs a checkout, for its PTX emulator (``tools/ptxemu``), and a C++ compiler.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tools.kernel_report.compilers import compile_kernels
from tools.kernel_report.subjects import Subject
from transnext_ops.backends import launches

# The package's own, or, where it is installed, the one that is worked in.
_CHECKOUT = next(
    (
        folder
        for folder in (Path(__file__).resolve().parents[2], Path.cwd())
        if (folder / "cpp" / "cuda").is_dir()
    ),
    Path.cwd(),
)
SECTOR = 32  # bytes


@dataclass(frozen=True)
class Count:
    """What one launch of a kernel did, or all launches of a call together.

    Attributes
    ----------
    instructions : int
        Executed by threads.
    operations, products : int
        Floating-point operations, and those of them on tensor cores.
    moved : int
        Bytes that threads asked of global memory.
    sectors, distinct : int
        32-byte sectors that the accesses touch: each time, and each once.
    wavefronts, conflict_free : int
        Passes of the shared memory, and how many they were without conflicts.
    """

    kernel: str
    instructions: int
    operations: int
    products: int
    moved: int
    sectors: int
    distinct: int
    wavefronts: int
    conflict_free: int

    @classmethod
    def of(cls, kernel: str, stats: dict[str, Any]) -> Count:
        """Return the counts of one launch, from the emulator's statistics."""
        accesses = [stats[f"global_{kind}"] for kind in ("load", "store", "atomic")]
        return cls(
            kernel,
            stats["thread_instructions"],
            sum(stats["flops"].values()),
            stats["flops"]["mma"],
            sum(access["bytes"] for access in accesses),
            sum(access["sectors"] for access in accesses),
            stats["unique_read_sectors"] + stats["unique_written_sectors"],
            stats["shared"]["wavefronts"],
            stats["shared"]["ideal_wavefronts"],
        )

    def plus(self, other: Count) -> Count:
        """Return the sum of two counts, under this one's kernel."""
        return Count(
            self.kernel,
            *(
                getattr(self, name) + getattr(other, name)
                for name in list(self.__dataclass_fields__)[1:]
            ),
        )


@dataclass(frozen=True)
class Counts:
    """What a call's kernels did.

    Attributes
    ----------
    kernels : tuple of Count
        By launch.
    least_sectors : int
        Of the call's tensors: every input once and every result once.
    """

    kernels: tuple[Count, ...]
    least_sectors: int

    def total(self) -> Count:
        """Return the sum over all kernels."""
        return functools.reduce(Count.plus, self.kernels)


def unavailable(checkout: Path = _CHECKOUT) -> str | None:
    """Say why there is no emulation, or None if there is."""
    if not (checkout / "tools" / "ptxemu").is_dir():
        return f"no PTX emulator: {checkout} is no checkout with tools/ptxemu"
    return load(checkout).unavailable()


@functools.cache
def load(checkout: Path = _CHECKOUT) -> ModuleType:
    """Import the emulator, which has to be there."""
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    return importlib.import_module("tools.ptxemu")


def count(subject: Subject, dtype: torch.dtype, compiler: str, architecture: int) -> Counts:
    """Run a call in the emulator and count, of a batch one image: its share of the blocks."""
    runner = _Counting(compiler, architecture, subject.images)
    with launches.use_runner(runner):
        subject.call(dtype)
    return Counts(tuple(runner.counts), runner.least_sectors)


class _Counting:
    """A runner of launches: the emulator, with its checks off."""

    def __init__(self, compiler: str, architecture: int, images: int) -> None:
        self.counts: list[Count] = []
        self.least_sectors = 0
        self._compiler, self._architecture, self._images = compiler, architecture, images

    def architecture(self, device: torch.device) -> int:
        return self._architecture

    def run(self, op: str, launches: Any, tensors: Sequence[Tensor | None]) -> None:
        own = tensors[:-1] if launches.workspace > 0 else tensors
        for tensor in own:
            if tensor is not None:
                images = self._images if tensor.shape[0] == self._images else 1
                size = tensor.numel() // images * tensor.element_size()
                self.least_sectors += -(-size // SECTOR)
        # Whole storages, so that tensors of one share its sectors.
        memory = [
            memory_of(tensor.untyped_storage())
            for tensor in tensors
            if tensor is not None and tensor.numel() > 0
        ]
        for name, grid, block, shared, params in launches.kernels:
            module, entry = _module(self._compiler, name, self._architecture)
            argument = translated(params, memory, module)
            # Images are the slowest part of a block's number.
            blocks = (-(-grid[0] // self._images), *grid[1:])
            result = module.launch(
                entry, grid=blocks, block=block, shared=shared, args=[argument], races=False,
                uninit=False, threads=len(os.sched_getaffinity(0)),
            )  # fmt: skip
            module.release()
            self.counts.append(Count.of(name, result.stats))


@functools.cache
def _module(compiler: str, kernel: str, architecture: int) -> tuple[Any, str]:
    made = compile_kernels(compiler, (kernel,), architecture)
    return load().Module(made.ptx), made.kernels[0].entry


# While the emulator is still there: the interpreter may take it apart before its modules.
atexit.register(_module.cache_clear)


def memory_of(storage: torch.UntypedStorage) -> np.ndarray:
    """Return a storage's bytes, a view."""
    return np.ctypeslib.as_array(
        (ctypes.c_uint8 * storage.nbytes()).from_address(storage.data_ptr())
    )


def translated(params: bytes, memory: Iterable[np.ndarray], module: Any) -> bytes:
    """Replace the pointers into arrays in a kernel's argument by the emulated device's.

    An address in several arrays is taken to be in the one that begins there, if any.
    """
    arrays = {array.ctypes.data: array for array in memory if array.nbytes > 0}
    words = np.frombuffer(params, dtype=np.uint64).copy()
    for i, word in enumerate(words):
        address = int(word)
        for begin in [address] if address in arrays else list(arrays):
            if begin <= address < begin + arrays[begin].nbytes:
                words[i] = module.ptr(arrays[begin], address - begin)
                break
    return words.tobytes()
