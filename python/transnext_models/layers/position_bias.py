"""Grids of a stage, and the cache of its continuous position bias."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["PositionBiasCache", "StageGrids"]

_CACHE_ENTRIES = 4  # a multi-scale test or a data set of a few aspect ratios; more would only grow


class StageGrids(NamedTuple):
    """The grids that fix the positions of a stage, all ``(height, width)``.

    Attributes
    ----------
    grid, pool_grid
        Query tokens and pooled (or, for global attention, key) tokens of this call.
    pretrain_grid
        Token grid of this stage at the size that the weights were trained at.
    train_grid, train_pool_grid
        Where the bias is computed before it is resized to this call's grids; None extrapolates it.
    """

    grid: tuple[int, int]
    pool_grid: tuple[int, int]
    pretrain_grid: tuple[int, int]
    train_grid: tuple[int, int] | None = None
    train_pool_grid: tuple[int, int] | None = None


class PositionBiasCache:
    """Remembers, in evaluation, what the position-bias MLP gave for the grids seen last.

    An entry holds for as long as the MLP's parameters are the same memory with the same content:
    the cache keeps an alias of each parameter (so that its memory cannot be handed to another
    tensor) and its version counter, and starts anew when either differs. That covers optimiser
    steps, ``load_state_dict``, ``.to()`` and in-place edits. Edits through ``parameter.data``
    escape PyTorch's version counter; for those, :meth:`clear` is there.

    The content is derived, so copies and pickles of a cache are empty.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._weights: list[tuple[Tensor, int]] = []
        self._entries: dict[object, object] = {}

    def __reduce__(self) -> tuple[type[PositionBiasCache], tuple[()]]:
        return PositionBiasCache, ()

    def __len__(self) -> int:
        return len(self._entries)

    @staticmethod
    def usable(weights: list[Tensor]) -> bool:
        """Whether results may be kept: nothing is traced, recorded for a gradient or faked."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        if weights[0].is_cuda and torch.cuda.is_current_stream_capturing():
            return False  # the graph would go on reading an entry that is long dropped
        records_gradient = torch.is_grad_enabled()
        return all(
            type(weight) is nn.Parameter
            and not weight.is_inference()
            and not (records_gradient and weight.requires_grad)
            for weight in weights
        )

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._weights, self._entries = [], {}

    def get(self, weights: list[Tensor], key: object, compute: Callable[[], object]) -> object:
        """The entry of ``key`` for these weights, from ``compute()`` if there is none."""
        with self._lock:
            if not self._holds(weights):
                self._weights = [(weight.detach(), weight._version) for weight in weights]
                self._entries = {}
            entries = self._entries
            if key in entries:
                entries[key] = entries.pop(key)  # most recently used last
                return entries[key]
        # Ordinary tensors also under inference_mode: the entry may later serve a call outside it.
        with torch.inference_mode(False), torch.no_grad():
            value = compute()
        with self._lock:
            entries[key] = value
            while len(entries) > _CACHE_ENTRIES:
                del entries[next(iter(entries))]
        return value

    def _holds(self, weights: list[Tensor]) -> bool:
        return len(weights) == len(self._weights) and all(
            weight.device == alias.device
            and weight.dtype == alias.dtype
            and weight.is_set_to(alias)
            and weight._version == version
            for weight, (alias, version) in zip(weights, self._weights, strict=True)
        )
