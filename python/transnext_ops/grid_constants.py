"""Constants of the grids alone: window masks, length scales, pooling bins.

Everything here is a small constant of a few integers. Eagerly it is built once per (sizes, dtype,
device) and shared; while ``torch.compile`` or ``torch.export`` traces, it is built by traceable
tensor code, so that no cached tensor leaks into a graph. Within :func:`shared_in_trace` it is then
built once in that graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from transnext_ops.tracing import traced, transformed

P = ParamSpec("P")
T = TypeVar("T")

_in_trace: ContextVar[dict[Hashable, Any] | None] = ContextVar("_in_trace", default=None)


def shared_in_trace() -> AbstractContextManager[None]:
    """Share constants between the calls in a ``with`` block, if it is recorded as one graph.

    Every constant of sizes that are open is some dozen operators, each of which a tracer follows by
    formulas: building them for each block is what tracing a deep model takes longest for.
    ``torch.compile`` finds equal operators by itself, and reads no context variables.
    """
    if torch.compiler.is_dynamo_compiling() or not traced():
        return nullcontext()
    return _sharing()


@contextmanager
def _sharing() -> Iterator[None]:
    token = _in_trace.set({})
    try:
        yield
    finally:
        _in_trace.reset(token)


def _key(value: Any) -> Hashable:
    """Return what tells an argument from others; a size that is open has no hash of its own."""
    if isinstance(value, tuple):
        return tuple(map(_key, value))
    return value.node.expr if isinstance(value, torch.SymInt) else cast(Hashable, value)


def shared_constant(build: Callable[P, T]) -> Callable[P, T]:
    """Share the results of `build` between eager calls.

    While a graph is traced or a function transformed, constants are rebuilt: they belong to it.
    """

    def build_constant(*args: P.args, **kwargs: P.kwargs) -> T:
        # A constant made under inference mode or functional tracing could not be used outside it.
        with torch.inference_mode(False), torch.no_grad():
            return build(*args, **kwargs)

    cached = functools.lru_cache(maxsize=512)(build_constant)

    @functools.wraps(build)
    def lookup(*args: P.args, **kwargs: P.kwargs) -> T:
        if traced() or transformed():
            shared = None if torch.compiler.is_dynamo_compiling() else _in_trace.get()
            if shared is None or transformed():
                return build(*args, **kwargs)
            key = (build, _key(args), _key(tuple(kwargs.items())))
            if key not in shared:
                shared[key] = build(*args, **kwargs)
            return cast(T, shared[key])
        return cast(Callable[P, T], cached)(*args, **kwargs)

    return lookup


def axis_cells(length: int, window_size: int, device: torch.device) -> Tensor:
    """Return the coordinates [length, window_size] of every query's window cells on one axis."""
    offsets = torch.arange(window_size, device=device) - window_size // 2
    return torch.arange(length, device=device)[:, None] + offsets


def _axis_inside(length: int, window_size: int, device: torch.device) -> Tensor:
    cells = axis_cells(length, window_size, device)
    return (cells >= 0) & (cells < length)


@shared_constant
def window_mask(grid: tuple[int, int], window_size: int, device: torch.device) -> Tensor:
    """Return a bool tensor [N, L]: whether window cell j of query n lies inside the image."""
    rows = _axis_inside(grid[0], window_size, device)
    cols = _axis_inside(grid[1], window_size, device)
    return (rows[:, None, :, None] & cols[None, :, None, :]).reshape(-1, window_size * window_size)


@shared_constant
def length_scale(
    grid: tuple[int, int],
    window_size: int,
    pool_length: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Return s = log(window cells inside the image + P) per query, [N].

    A window of 0 gives global attention's log N. Source: TransNeXt paper, section 3.1.3,
    length-scaled cosine attention.
    """
    if window_size == 0:  # no sum over an empty axis: with open sizes OpenVINO counts one too many
        cells = torch.zeros(grid[0] * grid[1], dtype=torch.int64, device=device)
    else:
        rows = _axis_inside(grid[0], window_size, device).sum(1)
        cols = _axis_inside(grid[1], window_size, device).sum(1)
        cells = (rows[:, None] * cols).flatten()
    counts = cells + pool_length
    # float64 first: the result is then the correctly rounded constant whatever the device.
    return counts.to(torch.float64).log().to(dtype)


def bin_edges(length: int, pool_length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return start and end (exclusive) of every adaptive-pooling bin of an axis, [pool_length]."""
    bins = torch.arange(pool_length, device=device)
    return (bins * length) // pool_length, -((-(bins + 1) * length) // pool_length)


@shared_constant
def pooling_matrix(
    length: int, pool_length: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return the averaging matrix [pool_length, length] of adaptive average pooling on an axis."""
    start, end = bin_edges(length, pool_length, device)
    index = torch.arange(length, device=device)
    inside = (index >= start[:, None]) & (index < end[:, None])
    return inside.to(dtype) / (end - start).to(dtype)[:, None]
