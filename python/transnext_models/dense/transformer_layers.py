"""Parts of the transformers of DINO and Mask2Former: FFN, multi-head attention, encoder.

Source: Zhu et al., "Deformable DETR", ICLR 2021, arXiv 2010.04159. The modules' names are those of
the published state dicts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from transnext_ops import fused_blocks

from ..layers.plain import plain
from .deformable_attention import DeformableAttention
from .eager import is_plain_inference

__all__ = ["Attention", "DeformableEncoder", "DeformableEncoderLayer", "FeedForward"]

_ROWS = 2048


class FeedForward(nn.Module):
    """Linear, ReLU, Linear, and the residual: ``x + W2 relu(W1 x)``."""

    def __init__(self, embed_dim: int, hidden_dim: int) -> None:
        super().__init__()
        expand = nn.Sequential(nn.Linear(embed_dim, hidden_dim), nn.ReLU(inplace=True))
        self.layers = nn.Sequential(expand, nn.Linear(hidden_dim, embed_dim))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., C]`` to ``[..., C]``."""
        return x + self.layers(x)


class Attention(nn.Module):
    """Multi-head attention with its residual."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(embed_dim, num_heads, batch_first=True)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        query_position: Tensor | None = None,
        key_position: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return ``query + attention(query + query_position, key + key_position, value)``.

        Parameters
        ----------
        query, key, value : Tensor
            ``[B, N, C]``, ``[B, M, C]``, ``[B, M, C]``.
        query_position, key_position : Tensor | None
            Of the shapes of query and key.
        mask : Tensor | None
            ``[N, M]`` or ``[B · heads, N, M]`` bool, true where a query may not look.
        """
        q = query if query_position is None else query + query_position
        k = key if key_position is None else key + key_position
        return query + self.attn(q, k, value, attn_mask=mask, need_weights=False)[0]


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention over the levels, then FFN; a LayerNorm after each."""

    def __init__(
        self, embed_dim: int, hidden_dim: int, num_heads: int, num_levels: int, num_points: int
    ) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(embed_dim, num_heads, num_levels, num_points)
        self.ffn = FeedForward(embed_dim, hidden_dim)
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(2))

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        reference: Tensor,
        shapes: Sequence[tuple[int, int]],
        padding: Tensor | None = None,
    ) -> Tensor:
        """``x`` ``[B, S, C]`` to the same; see :class:`DeformableAttention` for the rest."""
        if (
            plain(self.self_attn, DeformableAttention)
            and is_plain_inference(x, position, *self.parameters())
            and not fused_blocks.unsupported(x)
        ):
            return self._by_rows(x, position, reference, shapes, padding)
        return self._finish(x, self.self_attn(x + position, x, reference, shapes, padding))

    def _by_rows(
        self,
        x: Tensor,
        position: Tensor,
        reference: Tensor,
        shapes: Sequence[tuple[int, int]],
        padding: Tensor | None,
    ) -> Tensor:
        """Return the same, some queries at a time: all that follows the values stays in a cache."""
        value = self.self_attn.project(x, padding)
        step = max(1, _ROWS // len(x))
        parts = zip(*(of_all.split(step, 1) for of_all in (x, position, reference)), strict=True)
        return torch.cat(
            [
                self._finish(some, self.self_attn.read(some + where, value, near, shapes))
                for some, where, near in parts
            ],
            1,
        )

    def _finish(self, x: Tensor, read: Tensor) -> Tensor:
        return self.norms[1](self.ffn(self.norms[0](x + read)))


class DeformableEncoder(nn.Module):
    """Deformable encoder layers one after the other.

    Parameters
    ----------
    depth : int
        Layers.
    embed_dim, hidden_dim, num_heads, num_levels, num_points : int
        Channels, those inside the FFN, heads, maps, and points on each.
    """

    def __init__(
        self,
        depth: int = 6,
        *,
        embed_dim: int = 256,
        hidden_dim: int = 1024,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(embed_dim, hidden_dim, num_heads, num_levels, num_points)
            for _ in range(depth)
        )

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        reference: Tensor,
        shapes: Sequence[tuple[int, int]],
        padding: Tensor | None = None,
    ) -> Tensor:
        """Encode the cells of all levels.

        Parameters
        ----------
        x, position : Tensor
            ``[B, S, C]``: the levels' cells one after the other, and their position embeddings.
        reference : Tensor
            ``[B, S, levels, 2]``, (x, y) of each cell in units of each map's sides.
        shapes : sequence of (int, int)
            Rows and columns of each level.
        padding : Tensor | None
            ``[B, S]`` bool, true for cells that are padding.
        """
        for layer in self.layers:
            x = layer(x, position, reference, shapes, padding)
        return x
