"""What evaluation derives from weights and keeps: position-bias tables, packed weights."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["WeightsCache"]

_CACHE_ENTRIES = 4  # a multi-scale test or a data set of a few aspect ratios; more would only grow


class WeightsCache:
    """Remembers, in evaluation, what was derived from some parameters, for the keys seen last.

    An entry holds for as long as the parameters are the same memory with the same content:
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

    def __reduce__(self) -> tuple[type[WeightsCache], tuple[()]]:
        return WeightsCache, ()

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
        for weight in weights:  # a plain loop: this runs at every call
            if type(weight) is not nn.Parameter or weight.is_inference():
                return False
            if records_gradient and weight.requires_grad:
                return False
        return True

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
        if len(weights) != len(self._weights):
            return False
        for weight, (alias, version) in zip(weights, self._weights, strict=True):
            if weight._version != version or weight.dtype is not alias.dtype:
                return False
            if weight.device != alias.device or not weight.is_set_to(alias):
                return False
        return True
