"""What one attention call compared: its queries and keys, from which any weight is recomputed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import transnext_ops as ops

from ..layers.attention import GlobalAttention, PixelFocusedAttention
from ..layers.grids import StageGrids
from ..layers.length_scale import window_cells
from ..layers.linear import linear_layer

__all__ = ["BlockInfo", "RecordedBlock", "Weights", "record_block"]


class BlockInfo(NamedTuple):
    """A recorded block: ``block{stage}.{block}``, its grids, heads, and window (0 for none)."""

    stage: int
    block: int
    grid: tuple[int, int]
    pool_grid: tuple[int, int]
    heads: int
    window: int


class Weights(NamedTuple):
    """Weights of n queries.

    Attributes
    ----------
    attention : Tensor [h, n, L + P]
        Softmax over the window's cells and the pooled cells together.
    positional : Tensor [h, n, L]
        What is added to the window's attention for the values.
    inside : bool Tensor [n, L]
        Which cells of the window lie in the image.
    """

    attention: Tensor
    positional: Tensor
    inside: Tensor


@dataclass(frozen=True, eq=False)
class RecordedBlock:
    """The tensors of one attention call on one image, float32 at least, without batch.

    Attributes
    ----------
    info : BlockInfo
    stride : int
        Pixels between two tokens.
    unit_queries, queries : Tensor [N, h, d]
        q̂, and (q̂ + query embedding) · scale · length scale.
    keys, values : Tensor [N, h, d] or None
        Normalised keys, and values; None for global attention, whose keys are the pooled ones.
    pooled_keys, pooled_values : Tensor [P, h, d]
    local_bias : Tensor [h, L]
    tokens, token_bias : Tensor [h, d, L], [h, L] or None
        Of the positional part, which pixel-focused and global attention do not have.
    bias : PositionBias
        Of the pooled logits.
    """

    info: BlockInfo
    stride: int
    unit_queries: Tensor
    queries: Tensor
    keys: Tensor | None
    values: Tensor | None
    pooled_keys: Tensor
    pooled_values: Tensor
    local_bias: Tensor
    tokens: Tensor | None
    token_bias: Tensor | None
    bias: ops.PositionBias

    def weights(self, rows: Tensor, columns: Tensor) -> Weights:
        """Recompute the weights of the queries at ``(rows[n], columns[n])``.

        Source: TransNeXt paper, section 3.1.
        """
        return self._weights(rows, columns, *self._window(rows, columns))

    def _weights(self, rows: Tensor, columns: Tensor, inside: Tensor, cells: Tensor) -> Weights:
        """Return the weights of queries whose window has these cells; see `_window`."""
        index = rows * self.info.grid[1] + columns
        queries = self.queries[index]
        pooled = torch.einsum("nhd,phd->hnp", queries, self.pooled_keys)
        pooled = pooled + self.bias_of(rows, columns)
        heads, count = pooled.shape[:2]
        if self.keys is None:
            nothing = pooled.new_zeros(heads, count, 0)
            return Weights(pooled.softmax(-1), nothing, inside)
        local = torch.einsum("nhd,nlhd->hnl", queries, self.keys[cells])
        local = (local + self.local_bias[:, None]).masked_fill(~inside, -torch.inf)
        attention = torch.cat((local, pooled), -1).softmax(-1)
        if self.tokens is None or self.token_bias is None:
            return Weights(attention, torch.zeros_like(local), inside)
        positional = torch.einsum("nhd,hdl->hnl", self.unit_queries[index], self.tokens)
        return Weights(attention, positional + self.token_bias[:, None], inside)

    def output(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return what the weights make of the values, ``[n, h, d]``: the input of ``proj``."""
        inside, cells = self._window(rows, columns)
        attention, positional, _ = self._weights(rows, columns, inside, cells)
        cells_of_window = inside.shape[1]
        out = torch.einsum("hnp,phd->nhd", attention[..., cells_of_window:], self.pooled_values)
        if self.values is None:
            return out
        weights = (attention[..., :cells_of_window] + positional) * inside
        return out + torch.einsum("hnl,nlhd->nhd", weights, self.values[cells])

    def bias_of(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the position bias of queries towards every pooled cell, ``[h, n, P]``."""
        bias = self.bias
        row_map = bias.row_map[rows].long()[:, :, None, None]
        col_map = bias.col_map[columns].long()[:, None]
        values = bias.table[:, row_map, col_map]  # [h, n, Hp, Wp, taps]
        if bias.col_weights is not None:
            values = values * bias.col_weights[columns][:, None].to(values.dtype)
        return values.sum(-1).flatten(2).to(self.queries.dtype)

    def _window(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return which cells lie inside, bool ``[n, L]``, and their tokens (0 outside)."""
        side = self.info.window
        offset = torch.arange(side, device=rows.device) - side // 2
        row = rows[:, None, None] + offset[:, None]
        column = columns[:, None, None] + offset
        height, width = self.info.grid
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        cells = (row * width + column).where(inside, 0)
        return inside.flatten(1), cells.flatten(1)


def record_block(
    module: PixelFocusedAttention | GlobalAttention,
    x: Tensor,
    grids: StageGrids,
    *,
    stage: int,
    block: int,
) -> RecordedBlock:
    """Return what an attention module compares, given the input ``x [1, N, C]`` of its call."""
    window = module.window_size or 0
    info = BlockInfo(stage, block, grids.grid, grids.pool_grid, module.num_heads, window)

    def split(projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        heads = projected[0].unflatten(-1, (parts, module.num_heads, module.head_dim))
        return tuple(
            part if part.dtype == torch.float64 else part.float() for part in heads.unbind(1)
        )

    keys: Tensor | None
    values: Tensor | None
    if isinstance(module, GlobalAttention):
        queries, pooled_keys, pooled_values = split(linear_layer(module.qkv, x), 3)
        keys = values = None
    else:
        (queries,) = split(linear_layer(module.q, x), 1)
        keys, values = split(linear_layer(module.kv, x), 2)
        pooled_keys, pooled_values = split(linear_layer(module.kv, module.pool(x, grids)), 2)
        keys = F.normalize(keys, dim=-1)

    learnable = {
        name: parameter.detach().to(queries.dtype)
        for name, parameter in module.learnable_parameters().items()
    }
    unit = F.normalize(queries, dim=-1)
    scaled = unit + learnable["query_embedding"] if "query_embedding" in learnable else unit
    factor = module.scale().to(unit.dtype) * _length_scale(module, grids, x.device)[:, None]
    return RecordedBlock(
        info,
        4 * 2 ** (stage - 1),
        unit,
        scaled * factor[:, :, None],
        keys,
        values,
        F.normalize(pooled_keys, dim=-1),
        pooled_values,
        learnable.get("local_bias", unit.new_zeros(module.num_heads, window**2)),
        learnable.get("tokens"),
        learnable.get("token_bias"),
        module.position_bias(grids).detach(),
    )


def _length_scale(
    module: PixelFocusedAttention | GlobalAttention, grids: StageGrids, device: torch.device
) -> Tensor:
    """Return the logarithm of each query's number of keys, ``[N]`` (paper section 3.1.3)."""
    pooled = grids.pool_grid[0] * grids.pool_grid[1]
    counted: Any = pooled if module.training_keys is None else module.training_keys
    cells = window_cells(grids.grid, module.window_size or 0, device)
    return torch.log((cells + counted).double()).float()
