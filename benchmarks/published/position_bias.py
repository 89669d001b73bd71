"""The continuous position bias through a list of unique coordinates and an index of N·P entries."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]
Layer = Callable[[Tensor], Tensor]


def coordinates(grid: Grid, pool_grid: Grid, pretrain_grid: Grid) -> tuple[Tensor, Tensor]:
    """Return the distinct relative coordinates ``[U, 2]`` and the index ``[N, P]`` into them.

    All N·P coordinate pairs are written out and sorted to find the distinct ones.
    """
    axes = [torch.arange(size, dtype=torch.float32) for size in grid]
    query = torch.stack(torch.meshgrid(*axes, indexing="ij"))  # [2, H, W]
    key = F.adaptive_avg_pool2d(query[None], pool_grid)[0]  # [2, Hp, Wp]
    relative = query.flatten(1)[:, :, None] - key.flatten(1)[:, None, :]  # [2, N, P]
    spans = torch.tensor([max(size - 1, 1) for size in pretrain_grid], dtype=torch.float32)
    relative = (relative / spans[:, None, None] * 8).permute(1, 2, 0).reshape(-1, 2)
    distinct, index = torch.unique(relative, return_inverse=True, dim=0)
    distinct = torch.sign(distinct) * torch.log2(distinct.abs() + 1.0) / 3.0  # log2(8) = 3
    length, pool_length = grid[0] * grid[1], pool_grid[0] * pool_grid[1]
    return distinct, index.view(length, pool_length)


def gather_bias(fc1: Layer, fc2: Layer, distinct: Tensor, index: Tensor) -> Tensor:
    """Run the MLP on the distinct coordinates and look up every pair: ``[h, N, P]``."""
    table = fc2(F.relu(fc1(distinct))).transpose(0, 1)  # [h, U]
    return table[:, index.view(-1)].view(-1, *index.shape)


def resize_bias(
    bias: Tensor, train_grid: Grid, train_pool_grid: Grid, grid: Grid, pool_grid: Grid
) -> Tensor:
    """Resize a bias ``[h, N_train, P_train]`` to ``[h, N, P]``: over keys first, then queries."""
    heads, length, _ = bias.shape
    bias = F.interpolate(bias.reshape(heads, length, *train_pool_grid), pool_grid, mode="bilinear")
    bias = bias.reshape(heads, length, -1).transpose(1, 2).reshape(heads, -1, *train_grid)
    bias = F.interpolate(bias, grid, mode="bilinear")
    return bias.reshape(heads, pool_grid[0] * pool_grid[1], -1).transpose(1, 2)
