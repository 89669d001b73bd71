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
from .made_of import MadeOf

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
        self.cleared = 0  # how often
        self._of: object = None  # the state of the weights that the entries are of
        self._entries: dict[Hashable, Any] = {}

    def __reduce__(self) -> tuple[type[Derived], tuple[()]]:
        return Derived, ()

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Drop all entries."""
        with self._lock:
            self.cleared += 1
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
                return cast(T, _keep(_used(entries, key)))
        # Ordinary tensors also under inference_mode: they may later serve a call outside it.
        with torch.inference_mode(False), torch.no_grad():
            value = derive()
        if state is None or _is_captured(weights[0].device):  # then only a replay fills its memory
            return _keep(value)
        self._enter(entries, key, value)
        return _keep(value)

    def get_of_frozen(
        self, modules: Sequence[nn.Module], key: Hashable, derive: Callable[[], T]
    ) -> T | None:
        """Return ``derive()``, cached while frozen modules are made of what they were made of.

        An edit of their weights that version counters show, or one of them that is not frozen, ends
        :func:`freeze` for this cache; then the result is None.

        Parameters
        ----------
        modules : sequence of nn.Module
            All that ``derive`` reads, with the modules in them, except what `key` says.
        key, derive
            As in :meth:`get`.
        """
        with self._lock:
            if not (isinstance(self._of, _Frozen) and self._of.is_so(modules)):
                self._of, self._entries = _Frozen(modules), {}
            if not self._of.is_frozen():
                self.frozen, self._of, self._entries = False, None, {}
                return None
            entries = self._entries
            if key in entries:
                return cast(T, _used(entries, key))
        with torch.inference_mode(False), torch.no_grad():
            value = derive()
        self._enter(entries, key, value)
        return value

    def _enter(self, entries: dict[Hashable, Any], key: Hashable, value: object) -> None:
        with self._lock:
            entries[key] = value
            while len(entries) > _ENTRIES:
                del entries[next(iter(entries))]

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


def _used(entries: dict[Hashable, Any], key: Hashable) -> Any:
    """Return an entry, most recently used last."""
    entries[key] = entries.pop(key)
    return entries[key]


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


class _Frozen(MadeOf):
    """What frozen modules are made of, the state of their caches included."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__(modules)
        self._caches = [
            part.derived for part in self.modules if isinstance(part, DerivesFromWeights)
        ]
        self._cleared = self._times_cleared()

    def is_so(self, modules: Sequence[nn.Module]) -> bool:
        return super().is_so(modules) and self._times_cleared() == self._cleared

    def is_frozen(self) -> bool:
        """Whether all modules are frozen still, and their weights not seen to be edited."""
        return all(cache.frozen for cache in self._caches) and self.is_unedited()

    def _times_cleared(self) -> list[int]:
        return [cache.cleared for cache in self._caches]


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
