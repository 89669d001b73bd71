"""Attention whose length scale stays what it was at the training size.

TransNeXt multiplies its logits by the logarithm of the number of keys of each query (paper section
3.1.3, length-scaled cosine attention), which grows with the image. The operators compute it for the
image they get. Here it is kept at the training size's value, for the paper's comparison over image
sizes. No kernel knows of that: the factor per head that they take is multiplied by the ratio of
both logarithms. At the border, where the window has fewer cells, the ratio is another one, so there
is a call for each number of cells, of which each query takes its own.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from transnext_ops import aggregated_attention, global_attention

__all__ = [
    "aggregated_attention_at_length",
    "global_attention_at_length",
    "window_cells",
]


def aggregated_attention_at_length(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    *,
    training_keys: int,
    grid: tuple[int, int],
    pool_grid: tuple[int, int],
    window_size: int,
    scale: Tensor,
    **arguments: Any,
) -> Tensor:
    """:func:`transnext_ops.aggregated_attention` with log(window cells + `training_keys`).

    Arguments and result are those of that function, which is called once for each number of window
    cells inside the image: three times for a 3x3 window, once at the training size.

    Parameters
    ----------
    training_keys : int
        Pooled keys at the training size.
    """
    pooled = pool_grid[0] * pool_grid[1]
    arguments |= {"grid": grid, "pool_grid": pool_grid, "window_size": window_size}
    if pooled == training_keys:
        return aggregated_attention(q, k, v, k_pool, v_pool, scale=scale, **arguments)
    rows, columns = (sorted(set(_axis_cells(size, window_size))) for size in grid)
    counts = sorted({row * column for row in rows for column in columns}, reverse=True)
    outputs = [
        aggregated_attention(
            q,
            k,
            v,
            k_pool,
            v_pool,
            scale=scale * (math.log(count + training_keys) / math.log(count + pooled)),
            **arguments,
        )
        for count in counts
    ]
    cells = window_cells(grid, window_size, q.device)[:, None, None]  # [N, 1, 1]
    out = outputs[0]
    for count, other in zip(counts[1:], outputs[1:], strict=True):
        out = torch.where(cells == count, other, out)
    return out


def global_attention_at_length(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    training_keys: int,
    grid: tuple[int, int],
    scale: Tensor,
    **arguments: Any,
) -> Tensor:
    """:func:`transnext_ops.global_attention` with log(`training_keys`) instead of log N."""
    tokens = grid[0] * grid[1]
    if tokens > 1:  # the softmax over one key is 1, whatever its logit
        scale = scale * (math.log(training_keys) / math.log(tokens))
    return global_attention(q, k, v, grid=grid, scale=scale, **arguments)


def window_cells(grid: tuple[int, int], window_size: int, device: torch.device) -> Tensor:
    """Count the window cells inside the image at every position, int64 ``[H * W]``."""
    radius = window_size // 2
    counts = []
    for size in grid:
        position = torch.arange(size, device=device)
        first = (position - radius).clamp(min=0)
        last = (position - radius + window_size).clamp(max=size)
        counts.append(last - first)
    return (counts[0][:, None] * counts[1]).flatten()


def _axis_cells(size: int, window_size: int) -> list[int]:
    """Count the window cells inside the image along one axis, at every position."""
    radius = window_size // 2
    return [
        min(position - radius + window_size, size) - max(position - radius, 0)
        for position in range(size)
    ]
