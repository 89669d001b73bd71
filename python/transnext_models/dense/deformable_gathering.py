"""Deformable sampling as one weighted sum of rows: several times as fast on a CPU, no gradient.

A bilinear sample is a weighted sum of four cells, and a query's samples of all levels and points
are one of many cells: what an embedding bag computes, with a head's values of a cell as rows. Each
level gets a border of zeros, so that places outside need no care but to be moved onto it. Indices
and shares are computed for some queries at a time, so that they stay in a cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["DeformableGathering"]

_BLOCK = 2**18  # samples whose indices are computed at a time


class DeformableGathering:
    """Values that :func:`~.deformable_attention.deformable_sampling` samples, to be read.

    Parameters
    ----------
    value : Tensor
        ``[B, S, heads, D]``, float32 or float64.
    shapes : sequence of (int, int)
        Rows and columns of each level.
    """

    def __init__(self, value: Tensor, shapes: Sequence[tuple[int, int]]) -> None:
        batch, _, self.heads, self.width = value.shape
        # One cell of zeros before each axis, two behind: the second of the last one outside.
        areas = [(rows + 3) * (columns + 3) for rows, columns in shapes]
        table = value.new_zeros(batch, sum(areas), self.heads, self.width)
        parts = value.split([rows * columns for rows, columns in shapes], 1)
        bordered = table.split(areas, 1)
        for (rows, columns), part, place in zip(shapes, parts, bordered, strict=True):
            inside = place.unflatten(1, (rows + 3, columns + 3))[:, 1:-2, 1:-2]
            inside.copy_(part.unflatten(1, (rows, columns)))
        self.table = table.view(-1, self.width)
        self.shapes = shapes
        # Of the cell at (-1, -1) of each level in each image: [B, 1, 1, levels, 1].
        first = torch.tensor([0, *areas]).cumsum(0)[:-1]
        start = torch.arange(batch)[:, None] * sum(areas) + first
        self.start = (start * self.heads).int()[:, None, None, :, None]

    def step(self, samples: int) -> int:
        """Return how many queries are best read at a time that have so many samples together."""
        return max(1, _BLOCK // max(1, samples))

    def __call__(self, locations: Tensor, weights: Tensor) -> Tensor:
        """Return ``[B, N, heads · D]``.

        Parameters
        ----------
        locations, weights : Tensor
            ``[B, N, heads, levels, points, 2]`` and ``[B, N, heads, levels, points]``.
        """
        locations, weights = locations.to(self.table.dtype), weights.to(self.table.dtype)
        batch, queries = weights.shape[:2]
        step = self.step(weights[:, :1].numel())
        parts = []
        for start in range(0, queries, step):
            part = slice(start, start + step)
            rows, shares = self._cells_of(locations[:, part], weights[:, part])
            bags = F.embedding_bag(rows, self.table, mode="sum", per_sample_weights=shares)
            parts.append(bags.view(batch, -1, self.heads * self.width))
        return (
            torch.cat(parts, 1) if parts else weights.new_zeros(batch, 0, self.heads * self.width)
        )

    def _cells_of(self, locations: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows and shares ``[B · N · heads, levels · points · 4]`` of some queries."""
        like = weights.shape[2:]  # heads, levels, points
        sides = weights.new_tensor([(columns, rows) for rows, columns in self.shapes])
        # Of full size, so that loops over the last axes are long ones.
        sides = sides[:, None].expand(*like, 2).contiguous()
        at = torch.addcmul(weights.new_tensor(0.5), locations, sides)  # cell -1 is at 0
        # The larger of a number and of what is none is the number.
        at = torch.fmax(at, at.new_zeros(())).minimum(sides + 1)
        low = at.floor()
        share = at.sub_(low)
        cell = low.int()
        width = torch.tensor([columns + 3 for _, columns in self.shapes], dtype=torch.int32)
        width = (width * self.heads)[:, None].expand(like).contiguous()  # of a row of cells
        head = torch.arange(self.heads, dtype=torch.int32)[:, None, None]
        row = torch.addcmul(self.start + head, cell[..., 1], width)
        row.add_(cell[..., 0], alpha=self.heads)
        rows, shares = row.new_empty((*row.shape, 4)), weights.new_empty((*row.shape, 4))
        across, below = share[..., 0], share[..., 1] * weights
        for left, line, both in ((0, row, weights - below), (2, row + width, below)):
            rows[..., left] = line
            torch.add(line, self.heads, out=rows[..., left + 1])
            torch.mul(both, across, out=shares[..., left + 1])
            torch.sub(both, shares[..., left + 1], out=shares[..., left])
        return rows.flatten(3).flatten(0, 2), shares.flatten(3).flatten(0, 2)
