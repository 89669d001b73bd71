"""The attention of one query: what it weighs, where that lies on the image, and its statistics."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .geometry import bin_spans, pixel_of, spread, token_spans

__all__ = ["QueryAttention"]


@dataclass(frozen=True, eq=False)
class QueryAttention:
    """The softmax weights of one query of one block, per head, on the CPU.

    The sums of ``window`` and ``pooled`` over all cells are 1 together. Values are weighted by them
    and, in the window, by ``positional`` as well (paper section 3.1.2), which may be negative and
    is no part of that sum.

    Attributes
    ----------
    stage, block : int
        Stage from 1, block from 0: ``block{stage}.{block}`` of the model.
    position : (int, int)
        Row and column of the query in `grid`.
    grid, pool_grid : (int, int)
        Tokens, and pooled cells (all tokens, for global attention).
    stride : int
        Pixels between the centres of two tokens.
    image_size : (int, int)
        Height and width of the image that the model got.
    window : Tensor [h, k, k]
        Attention to the cells of the window; 0 outside the image. ``[h, 0, 0]`` for global
        attention.
    pooled : Tensor [h, Hp, Wp]
        Attention to the pooled cells.
    positional : Tensor [h, k, k]
        ``q̂ · tokens + token_bias``, what is added to `window` for the values.
    inside : bool Tensor [k, k]
        Which cells of the window lie in the image.
    """

    stage: int
    block: int
    position: tuple[int, int]
    grid: tuple[int, int]
    pool_grid: tuple[int, int]
    stride: int
    image_size: tuple[int, int]
    window: Tensor
    pooled: Tensor
    positional: Tensor
    inside: Tensor

    @property
    def pixel(self) -> tuple[int, int]:
        """The pixel ``(y, x)`` on which the query is centred."""
        return pixel_of(self.position, self.stride)

    @property
    def heads(self) -> int:
        """Number of heads."""
        return self.pooled.shape[0]

    def density(self, size: tuple[int, int] | None = None, head: int | None = None) -> Tensor:
        """Return the attention as a density over the image, which sums to 1.

        The weight of a window cell is spread over the pixels of its token, that of a pooled cell
        over the pixels of all tokens it pools; where both lie they add.

        Parameters
        ----------
        size : (int, int), optional
            Height and width of the result, the image's unless given.
        head : int, optional
            None for the mean over heads.

        Returns
        -------
        Tensor [H, W], float64
        """
        weights = self.densities(size)
        return weights.mean(0) if head is None else weights[head]

    def densities(self, size: tuple[int, int] | None = None) -> Tensor:
        """Return :meth:`density` of every head, float64 ``[h, H, W]``."""
        size = self.image_size if size is None else size
        tokens, bins = (
            [spread(spans_of(axis), self.image_size[axis], size[axis]) for axis in range(2)]
            for spans_of in (self._token_spans, self._bin_spans)
        )
        return _outer(tokens, self._on_grid()) + _outer(bins, self.pooled.double())

    def _token_spans(self, axis: int) -> Tensor:
        return token_spans(self.grid[axis], self.stride)

    def _bin_spans(self, axis: int) -> Tensor:
        return bin_spans(self.grid[axis], self.pool_grid[axis], self.stride)

    def _on_grid(self) -> Tensor:
        """Return the window's weights at their tokens, float64 ``[h, H, W]``."""
        on_grid = torch.zeros(self.heads, *self.grid, dtype=torch.float64)
        rows, columns = torch.nonzero(self.inside, as_tuple=True)
        radius = self.inside.shape[0] // 2
        row, column = self.position
        on_grid[:, rows + row - radius, columns + column - radius] = self.window[
            :, rows, columns
        ].double()
        return on_grid

    # -- numbers per head ---------------------------------------------------------------------

    def foveal_share(self) -> Tensor:
        """Return the share of the attention that the window gets, float64 ``[h]``."""
        return self.window.double().sum((1, 2))

    def entropy(self) -> Tensor:
        """Return the entropy of the attention over all cells in nats, float64 ``[h]``."""
        weights = torch.cat((self.window.flatten(1), self.pooled.flatten(1)), 1).double()
        return torch.special.entr(weights).sum(1)

    def mean_distance(self) -> Tensor:
        """Return the mean distance of what is attended to in pixels, float64 ``[h]``.

        From the query's pixel to the centres of tokens and pooled cells.
        """
        y, x = self.pixel
        distances = []
        for spans_of in (self._token_spans, self._bin_spans):
            rows, columns = (spans_of(axis).mean(1) for axis in range(2))
            distances.append(torch.hypot((rows - y)[:, None], (columns - x)[None, :]))
        near = (self._on_grid() * distances[0]).sum((1, 2))
        return near + (self.pooled.double() * distances[1]).sum((1, 2))

    def effective_cells(self) -> Tensor:
        """Return over how many cells an even attention of the same entropy would go, ``[h]``."""
        return self.entropy().exp()

    def most(self) -> float:
        """Return the entropy of even attention to all cells inside the image, in nats."""
        return math.log(int(self.inside.sum()) + self.pooled[0].numel())


def _outer(axes: list[Tensor], weights: Tensor) -> Tensor:
    """Spread weights ``[h, n, m]`` over rows by ``[H, n]`` and columns by ``[W, m]``."""
    return axes[0] @ weights @ axes[1].T
