"""Memory for packed weights that are read one after the other, call by call.

A model reads each of its weights once per call: 57 MB of TransNeXt-Tiny's in bfloat16, for a single
image. In pages of 4 KiB that is a page walk for every 64 cache lines, and hardware prefetches end
with the page. So weights that stay, those of a frozen stage, lie side by side in pages of 2 MiB,
where the system has them (docs/notes/2026-11-30-caches-and-threads.md).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

__all__ = ["packed_together", "weight_room"]

_LARGE_PAGE = 2 << 20
_BLOCK = 8 << 20  # bytes; what is never written of it takes no memory
_CACHE_LINE = 64
# Of a mapping: a shared one, which is Python's default, is in small pages.
_PRIVATE: dict[str, int] = (
    {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
)


class WeightMemory:
    """Room for tensors side by side, in blocks that live as long as a tensor in them."""

    def __init__(self) -> None:
        self._block: mmap.mmap | None = None
        self._next = 0  # the first free byte of the block
        self._end = 0

    def take(self, elements: int, dtype: torch.dtype) -> Tensor:
        """Return an uninitialised tensor of ``elements`` elements, at the start of a cache line."""
        size = elements * dtype.itemsize
        if self._block is None or self._next + size > self._end:
            self._start_block(size)
        assert self._block is not None
        tensor = torch.frombuffer(self._block, dtype=dtype, count=elements, offset=self._next)
        self._next += _round_up(size, _CACHE_LINE)
        return tensor

    def _start_block(self, size: int) -> None:
        room = max(_BLOCK, _round_up(size, _LARGE_PAGE))
        self._block = mmap.mmap(-1, room + _LARGE_PAGE, **_PRIVATE)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._block.madvise(mmap.MADV_HUGEPAGE)
        address = torch.frombuffer(self._block, dtype=torch.uint8, count=1).data_ptr()
        self._next = -address % _LARGE_PAGE
        self._end = self._next + room


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


_together: ContextVar[WeightMemory | None] = ContextVar("_together", default=None)


@contextmanager
def packed_together() -> Iterator[None]:
    """Pack the weights of this context side by side, in large pages: those that are kept for long.

    Their memory is freed when the last of them is.
    """
    outer = _together.set(WeightMemory())
    try:
        yield
    finally:
        _together.reset(outer)


def weight_room(elements: int, dtype: torch.dtype) -> Tensor:
    """Return uninitialised memory for a packed weight, on the CPU."""
    memory = _together.get()
    if memory is None or elements == 0:
        return torch.empty(elements, dtype=dtype)
    return memory.take(elements, dtype)
