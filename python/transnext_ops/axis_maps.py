"""What depends on the grids alone: window masks, length scales, pooling bins, position-bias axes.

Everything here is a small constant of a few integers. Eagerly it is built once per (sizes, dtype,
device) and shared; while ``torch.compile`` or ``torch.export`` traces, it is built by traceable
tensor code, so that no cached tensor leaks into a graph.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from transnext_ops.tracing import known_true, traced, transformed

P = ParamSpec("P")
T = TypeVar("T")


def _constant(build: Callable[P, T]) -> Callable[P, T]:
    """Share the results of `build` between eager calls; build anew while a graph is traced or a
    function transformed, to which what it makes belongs."""

    def build_constant(*args: P.args, **kwargs: P.kwargs) -> T:
        # A constant made under inference mode or functional tracing could not be used outside it.
        with torch.inference_mode(False), torch.no_grad():
            return build(*args, **kwargs)

    cached = functools.lru_cache(maxsize=512)(build_constant)

    @functools.wraps(build)
    def lookup(*args: P.args, **kwargs: P.kwargs) -> T:
        if traced() or transformed():
            return build(*args, **kwargs)
        return cast(Callable[P, T], cached)(*args, **kwargs)

    return lookup


def axis_cells(length: int, window_size: int, device: torch.device) -> Tensor:
    """Return the coordinates [length, window_size] of every query's window cells on one axis."""
    offsets = torch.arange(window_size, device=device) - window_size // 2
    return torch.arange(length, device=device)[:, None] + offsets


def _axis_inside(length: int, window_size: int, device: torch.device) -> Tensor:
    cells = axis_cells(length, window_size, device)
    return (cells >= 0) & (cells < length)


@_constant
def window_mask(grid: tuple[int, int], window_size: int, device: torch.device) -> Tensor:
    """Return a bool tensor [N, L]: whether window cell j of query n lies inside the image."""
    rows = _axis_inside(grid[0], window_size, device)
    cols = _axis_inside(grid[1], window_size, device)
    return (rows[:, None, :, None] & cols[None, :, None, :]).reshape(-1, window_size * window_size)


@_constant
def length_scale(
    grid: tuple[int, int],
    window_size: int,
    pool_length: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Return s = log(window cells inside the image + P) per query, [N] (length-scaled cosine
    attention of the TransNeXt paper; a window of 0 gives global attention's log N)."""
    rows = _axis_inside(grid[0], window_size, device).sum(1)
    cols = _axis_inside(grid[1], window_size, device).sum(1)
    counts = (rows[:, None] * cols).flatten() + pool_length
    # float64 first: the result is then the correctly rounded constant whatever the device.
    return counts.to(torch.float64).log().to(dtype)


def _bin_edges(length: int, pool_length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return start and end (exclusive) of every adaptive-pooling bin of an axis, [pool_length]."""
    bins = torch.arange(pool_length, device=device)
    return (bins * length) // pool_length, -((-(bins + 1) * length) // pool_length)


@_constant
def pooling_matrix(
    length: int, pool_length: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return the averaging matrix [pool_length, length] of adaptive average pooling on an axis."""
    start, end = _bin_edges(length, pool_length, device)
    index = torch.arange(length, device=device)
    inside = (index >= start[:, None]) & (index < end[:, None])
    return inside.to(dtype) / (end - start).to(dtype)[:, None]


class BiasAxis(NamedTuple):
    """One axis of the continuous position bias.

    Attributes
    ----------
    coords : Tensor
        float64 [R], log-spaced relative coordinates: the table's axis.
    positions : Tensor
        int32 [length, pool_length, taps], positions in `coords` for query i and pooled cell a.
    weights : Tensor or None
        float64 [length, pool_length, taps]; None where taps is 1 and the weight 1.
    """

    coords: Tensor
    positions: Tensor
    weights: Tensor | None


def _extrapolated_axis(
    length: int, pool_length: int, pretrain_length: int, device: torch.device
) -> BiasAxis:
    start, end = _bin_edges(length, pool_length, device)
    centres = start + end - 1  # twice the mean coordinate of each bin
    # Twice the relative positions, 2i - centre, are integers of a range: no unique() is needed.
    # With bins of one length they are 2 apart.
    if known_true(length % pool_length == 0):
        step, bin_length = 2, length // pool_length
        least, largest = bin_length - 1, 2 * length - bin_length - 1
    elif traced():  # bounds that hold for every pooled grid keep a graph of open sizes simple
        step, least, largest = 1, 0, 2 * (length - 1)
    else:
        step, least = 1, -(-length // pool_length) - 1
        largest = (pool_length - 1) * length // pool_length + length - 1
    count = (2 * (length - 1) - least + largest) // step + 1
    twice_relative = torch.arange(count, device=device) * step - largest
    relative = twice_relative.to(torch.float64) * (0.5 * 8.0 / max(pretrain_length - 1, 1))
    coords = relative.sign() * torch.log2(relative.abs() + 1.0) / math.log2(8.0)
    query = 2 * torch.arange(length, device=device)
    positions = (query[:, None] - centres + largest) // step
    return BiasAxis(coords, positions[:, :, None].to(torch.int32), None)


def _bilinear_taps(source: int, target: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return index and weight [target, 2] of a bilinear resize of an axis, align_corners=False."""
    position = (torch.arange(target, device=device, dtype=torch.float64) + 0.5) * source / target
    position = (position - 0.5).clamp(min=0.0)
    low = position.floor().long().clamp(max=source - 1)
    high = (low + 1).clamp(max=source - 1)
    fraction = position - low
    return torch.stack((low, high), 1), torch.stack((1.0 - fraction, fraction), 1)


@_constant
def bias_axis(
    length: int,
    pool_length: int,
    pretrain_length: int,
    train_length: int | None,
    train_pool_length: int | None,
    device: torch.device,
) -> BiasAxis:
    """Return one axis of the position bias (model.md, "Continuous position bias").

    Without a training length the coordinates of the axis in use are taken (extrapolation). With
    one, the bias lives on the training axis and is resized bilinearly over keys, then over
    queries: up to 2 × 2 weighted positions per (query, key).
    """
    if train_length is None or train_pool_length is None:
        return _extrapolated_axis(length, pool_length, pretrain_length, device)
    trained = _extrapolated_axis(train_length, train_pool_length, pretrain_length, device)
    if not traced() and (train_length, train_pool_length) == (length, pool_length):
        return trained  # which the resize gives too, with weights of 1 and 0
    query_index, query_weight = _bilinear_taps(train_length, length, device)
    key_index, key_weight = _bilinear_taps(train_pool_length, pool_length, device)
    positions = trained.positions[query_index[:, None, :, None], key_index[None, :, None, :], 0]
    weights = query_weight[:, None, :, None] * key_weight[None, :, None, :]
    return BiasAxis(trained.coords, positions.flatten(2), weights.flatten(2))
