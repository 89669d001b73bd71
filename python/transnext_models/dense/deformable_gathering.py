"""Deformable sampling as one weighted sum of rows: several times as fast on a CPU, no gradient.

A bilinear sample is a weighted sum of four cells, and a query's samples of all levels and points
are one of many cells: what an embedding bag computes, with a head's values of a cell as rows.
Indices and shares are computed for some queries at a time, so that they stay in a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["gather_deformably"]

_BLOCK = 2**17  # samples whose indices are computed at a time


def gather_deformably(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Return what :func:`~.deformable_attention.deformable_sampling` does, of the same tensors.

    They are float32 or float64, all of one dtype.
    """
    batch, cells, heads, width = value.shape
    queries = weights.shape[1]
    levels = _Levels(shapes, batch, cells, heads, value)
    table = value.reshape(-1, width)
    step = max(1, _BLOCK // max(1, weights[:, :1].numel()))
    parts = []
    for start in range(0, queries, step):
        rows, shares = levels.cells_of(
            locations[:, start : start + step], weights[:, start : start + step]
        )
        bags = F.embedding_bag(rows, table, mode="sum", per_sample_weights=shares)
        parts.append(bags.view(batch, -1, heads * width))
    return torch.cat(parts, 1) if parts else value.new_zeros(batch, 0, heads * width)


class _Levels:
    """Sizes of the levels, and where their values lie among all rows."""

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        batch: int,
        cells: int,
        heads: int,
        like: Tensor,
    ) -> None:
        self.heads = heads
        sides = [(columns, rows) for rows, columns in shapes]
        self.sides = torch.tensor(sides, dtype=torch.int32)[:, None]
        self.half = self.sides.to(like.dtype) / 2
        first = list(accumulate((rows * columns for rows, columns in shapes), initial=0))[:-1]
        start = torch.arange(batch)[:, None] * cells + torch.tensor(first)  # [B, levels]
        head = torch.arange(heads)[:, None, None]
        start = start[:, None, None, :, None] * heads + head
        self.start = start.int()  # [B, 1, heads, levels, 1]

    def cells_of(self, locations: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows and shares ``[B · N · heads, levels · points · 4]`` of some queries."""
        # In the order in which grid_sample rounds, so that both give the same.
        at = torch.addcmul(locations.new_tensor(-0.5), 2 * locations - 1 + 1, self.half)
        low = at.floor()
        share = at - low
        first = low.int()
        (left, right), across = self._axis(first[..., 0], share[..., 0], self.sides[..., 0])
        (above, below), down = self._axis(first[..., 1], share[..., 1], self.sides[..., 1])
        rows = weights.new_empty((*weights.shape, 4), dtype=torch.int32)
        shares = weights.new_empty((*weights.shape, 4))
        corner = 0
        for y, vertical in zip((above, below), down, strict=True):
            line = torch.addcmul(self.start, y, self.sides[..., 0], value=self.heads)
            vertical = vertical * weights
            for x, horizontal in zip((left, right), across, strict=True):
                torch.add(line, x, alpha=self.heads, out=rows[..., corner])
                torch.mul(vertical, horizontal, out=shares[..., corner])
                corner += 1
        return rows.flatten(3).flatten(0, 2), shares.flatten(3).flatten(0, 2)

    @staticmethod
    def _axis(
        first: Tensor, share: Tensor, side: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return both cells of an axis, and their shares: none for a cell outside."""
        second, last = first + 1, side - 1
        inside, outside = first.clamp(min=0).minimum(last), second.clamp(min=0).minimum(last)
        return (inside, outside), (
            torch.where(inside == first, 1 - share, 0.0),
            torch.where(outside == second, share, 0.0),
        )
