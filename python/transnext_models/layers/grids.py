"""The grids that fix the positions of a stage."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from transnext_ops.tracing import reshaped

__all__ = ["StageGrids", "map_grid", "map_to_tokens", "stage_grids", "tokens_to_map"]


class StageGrids(NamedTuple):
    """The grids that fix the positions of a stage, all ``(height, width)``.

    Attributes
    ----------
    grid, pool_grid : tuple[int, int]
        Query tokens and pooled (or, for global attention, key) tokens of this call.
    pretrain_grid : tuple[int, int]
        Token grid of this stage at the size that the weights were trained at.
    train_grid, train_pool_grid : tuple[int, int] | None
        Where the bias is computed before it is resized to this call's grids; None extrapolates it.
    """

    grid: tuple[int, int]
    pool_grid: tuple[int, int]
    pretrain_grid: tuple[int, int]
    train_grid: tuple[int, int] | None = None
    train_pool_grid: tuple[int, int] | None = None


def stage_grids(
    grid: tuple[int, int],
    *,
    pool_ratio: int,
    pool_size: int | None,
    pretrain_side: int,
    train_side: int | None,
) -> StageGrids:
    """Return all grids of a stage whose tokens lie on `grid`.

    Parameters
    ----------
    grid : (int, int)
    pool_ratio : int
        Tokens of each pooled one on an axis; 1 pools nothing.
    pool_size : int | None
        Side of the pooled grid, instead of `pool_ratio`: linear inference mode.
    pretrain_side : int
        Side of the token grid at the size that the weights were trained at.
    train_side : int | None
        Side of the grid from which the position bias is resized; None extrapolates it.
    """
    height, width = grid
    if pool_ratio == 1:
        pool_grid = (height, width)
    elif pool_size is not None:
        pool_grid = min(pool_size, height), min(pool_size, width)
    else:
        pool_grid = max(1, height // pool_ratio), max(1, width // pool_ratio)
    pretrain_grid = (pretrain_side, pretrain_side)
    if train_side is None:
        return StageGrids((height, width), pool_grid, pretrain_grid)
    pooled = max(1, train_side // pool_ratio)
    return StageGrids(
        (height, width), pool_grid, pretrain_grid, (train_side, train_side), (pooled, pooled)
    )


def map_grid(x: Tensor) -> tuple[int, int]:
    """Return the grid of a map ``[B, C, H, W]``."""
    height, width = x.shape[2], x.shape[3]
    if torch.jit.is_tracing():  # where sizes are tensors; a trace holds for this image size alone
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            return int(height), int(width)
    return height, width


def tokens_to_map(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return tokens ``[B, H * W, C]`` as the map ``[B, C, H, W]``, a channels-last view."""
    return x.unflatten(1, grid).permute(0, 3, 1, 2)


def map_to_tokens(x: Tensor) -> Tensor:
    """Return a map ``[B, C, H, W]`` as contiguous tokens ``[B, H * W, C]``.

    No copy if it is channels-last.
    """
    batch, channels, height, width = x.shape
    return reshaped(x.permute(0, 2, 3, 1), batch, height * width, channels).contiguous()
