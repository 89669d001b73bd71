"""The grids that fix the positions of a stage."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["StageGrids"]


class StageGrids(NamedTuple):
    """The grids that fix the positions of a stage, all ``(height, width)``.

    Attributes
    ----------
    grid, pool_grid
        Query tokens and pooled (or, for global attention, key) tokens of this call.
    pretrain_grid
        Token grid of this stage at the size that the weights were trained at.
    train_grid, train_pool_grid
        Where the bias is computed before it is resized to this call's grids; None extrapolates it.
    """

    grid: tuple[int, int]
    pool_grid: tuple[int, int]
    pretrain_grid: tuple[int, int]
    train_grid: tuple[int, int] | None = None
    train_pool_grid: tuple[int, int] | None = None
