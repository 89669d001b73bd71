"""The cache of what modules derive from their weights: packed weights, position-bias tables.

One rule holds: a cached value is used only for weights of the same content. PyTorch's version
counters cannot tell, since writes through ``.data``, NumPy or FSDP's buffers leave them unchanged.
So every use hashes every byte of the weights, which the compiled library does at memory bandwidth.
:func:`freeze` declares that weights stay as they are, and skips that. On devices other than the
CPU, where hashing would synchronise, nothing is cached unless the weights are frozen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from transnext_ops.fingerprint import fingerprint
from transnext_ops.tracing import traced, transformed

from .calls import is_tensor

__all__ = ["Derived", "DerivesFromWeights", "freeze", "keeping_derived"]

_ENTRIES = 4  # a multi-scale test or a data set of a few aspect ratios; more would only grow

T = TypeVar("T")

# What a graph that is being recorded reads, and whoever records it keeps.
_kept: ContextVar[list[Any] | None] = ContextVar("_kept", default=None)


@contextmanager
def keeping_derived() -> Iterator[list[Any]]:
    """Collect what the calls within take from caches of frozen weights, or put there.

    A CUDA graph keeps reading it after a cache has dropped it. Outside, a call that is captured
    takes nothing from a cache and derives what it needs in every replay.
    """
    values: list[Any] = []
    token = _kept.set(values)
    try:
        yield values
    finally:
        _kept.reset(token)


class Derived:
    """A cache of what was derived from some weights, for the keys used last.

    Its content follows from the weights, so copies and pickles are empty, and not frozen.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.frozen = False
        self._of: object = None  # the state of the weights that the entries are of
        self._entries: dict[Hashable, Any] = {}

    def __reduce__(self) -> tuple[type[Derived], tuple[()]]:
        return Derived, ()

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Drop all entries."""
        with self._lock:
            self._of, self._entries = None, {}

    def get(self, weights: Sequence[Tensor], key: Hashable, derive: Callable[[], T]) -> T:
        """Return ``derive()``, cached for the same weights and the same `key`.

        Parameters
        ----------
        weights : sequence of Tensor
            All that ``derive`` reads, except what `key` says.
        key : hashable
            What else the result depends on.
        derive : callable
            Called without recording gradients if the result is cached.
        """
        state = self._state(weights)
        if state is None:
            return derive()
        with self._lock:
            if state != self._of:
                # Frozen weights have changed: from here on they are hashed again.
                if self.frozen and self._of is not None:
                    self.frozen = False
                    state = self._state(weights)
                self._of, self._entries = state, {}
            entries = self._entries
            if state is not None and key in entries:
                entries[key] = entries.pop(key)  # most recently used last
                return cast(T, _keep(entries[key]))
        # Ordinary tensors also under inference_mode: they may later serve a call outside it.
        with torch.inference_mode(False), torch.no_grad():
            value = derive()
        if state is None or _is_captured(weights[0].device):  # then only a replay fills its memory
            return _keep(value)
        with self._lock:
            entries[key] = value
            while len(entries) > _ENTRIES:
                del entries[next(iter(entries))]
        return _keep(value)

    def _state(self, weights: Sequence[Tensor]) -> object:
        """Return what tells these weights from others; None where nothing may be cached."""
        if traced() or transformed():
            return None
        records_gradient = torch.is_grad_enabled()
        for weight in weights:  # a plain loop: this runs at every call
            if not is_tensor(weight) or (records_gradient and weight.requires_grad):
                return None
        device = weights[0].device
        if self.frozen:
            if _is_captured(device) and _kept.get() is None:
                return None  # the graph would keep reading an entry after it is dropped
            return _Identity(weights)
        return fingerprint(weights) if device.type == "cpu" else None


def _is_captured(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _keep(value: T) -> T:
    kept = _kept.get()
    if kept is not None:
        kept.append(value)
    return value


class _Identity:
    """The identity of weights: the tensors, their addresses and their version counters."""

    __slots__ = ("_tensors", "_where")

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._tensors = tuple(weights)
        self._where = [
            (weight.data_ptr(), weight.dtype, 0 if weight.is_inference() else weight._version)
            for weight in weights
        ]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Identity)
            and len(self._tensors) == len(other._tensors)
            and all(a is b for a, b in zip(self._tensors, other._tensors, strict=True))
            and self._where == other._where
        )

    __hash__ = None  # type: ignore[assignment]


class DerivesFromWeights(nn.Module):
    """A module that caches what it derives from its weights in ``self.derived``.

    Training mode, loading a state dict, moving and casting clear the cache. So does evaluation mode
    while the weights are frozen, when nothing else would notice an edit. Training mode and loading
    also end :func:`freeze`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.derived = Derived()

    def train(self, mode: bool = True) -> Any:
        """Change the mode, as :meth:`torch.nn.Module.train`."""
        if mode or self.derived.frozen:
            self._forget(still_frozen=not mode)
        return super().train(mode)

    def _load_from_state_dict(self, *arguments: Any, **keywords: Any) -> None:
        self._forget(still_frozen=False)
        super()._load_from_state_dict(*arguments, **keywords)

    def _apply(self, *arguments: Any, **keywords: Any) -> Any:
        self._forget(still_frozen=True)
        return super()._apply(*arguments, **keywords)

    def _forget(self, *, still_frozen: bool) -> None:
        self.derived.clear()
        self.derived.frozen = self.derived.frozen and still_frozen


def freeze(module: nn.Module, frozen: bool = True) -> None:
    """Declare for all modules in `module` that their weights stay as they are, or no longer."""
    for part in module.modules():
        if isinstance(part, DerivesFromWeights):
            part.derived.clear()
            part.derived.frozen = frozen
