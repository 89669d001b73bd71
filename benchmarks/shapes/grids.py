"""What follows from a grid and its pooled grid."""

from __future__ import annotations


class OnGrids:
    """Sizes that a grid and a pooled grid are among."""

    grid: tuple[int, int]
    pool_grid: tuple[int, int]

    @property
    def length(self) -> int:
        """Tokens."""
        return self.grid[0] * self.grid[1]

    @property
    def pool_length(self) -> int:
        """Pooled tokens."""
        return self.pool_grid[0] * self.pool_grid[1]
