"""DINO's decoder: queries with boxes that every layer refines ("look forward twice")."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...dense.deformable_attention import DeformableAttention
from ...dense.sine_positions import sine_of_boxes
from ...dense.transformer_layers import Attention, FeedForward
from .levels import Levels

__all__ = ["Decoder", "logit"]


def logit(x: Tensor, eps: float) -> Tensor:
    """Return ``log(x / (1 - x))`` of x clipped to 0..1, neither part below `eps`."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


class _DecoderLayer(nn.Module):
    """Self-attention, deformable cross-attention, FFN; a LayerNorm after each."""

    def __init__(
        self, embed_dim: int, hidden_dim: int, num_heads: int, num_levels: int, num_points: int
    ) -> None:
        super().__init__()
        self.self_attn = Attention(embed_dim, num_heads)
        self.cross_attn = DeformableAttention(embed_dim, num_heads, num_levels, num_points)
        self.ffn = FeedForward(embed_dim, hidden_dim)
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(3))

    def forward(
        self,
        queries: Tensor,
        position: Tensor,
        memory: Tensor,
        reference: Tensor,
        levels: Levels,
        mask: Tensor | None,
    ) -> Tensor:
        """Refine ``queries [B, N, C]`` at boxes ``reference [B, N, levels, 4]``."""
        x = self.self_attn(
            queries, queries, queries, query_position=position, key_position=position, mask=mask
        )
        x = self.norms[0](x)
        read = self.cross_attn(x + position, memory, reference, levels.shapes, levels.padding)
        return self.norms[2](self.ffn(self.norms[1](x + read)))


class _ReferenceHead(nn.Module):
    """Two Linears with a ReLU between, from a box's sine embedding to a query's position."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(in_dim, out_dim), nn.Linear(out_dim, out_dim)])

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in_dim]`` to ``[..., out_dim]``."""
        return self.layers[1](self.layers[0](x).relu())


class Decoder(nn.Module):
    """Decoder layers one after the other.

    Parameters
    ----------
    depth : int
    embed_dim, hidden_dim, num_heads, num_levels, num_points : int
        Channels, those inside the FFN, heads, levels, and points on each.
    """

    def __init__(
        self,
        depth: int = 6,
        *,
        embed_dim: int = 256,
        hidden_dim: int = 2048,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _DecoderLayer(embed_dim, hidden_dim, num_heads, num_levels, num_points)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.ref_point_head = _ReferenceHead(2 * embed_dim, embed_dim)

    def forward(
        self,
        queries: Tensor,
        reference: Tensor,
        memory: Tensor,
        levels: Levels,
        regress: Sequence[nn.Module],
        mask: Tensor | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Refine queries and their boxes.

        Parameters
        ----------
        queries : Tensor [B, N, C]
        reference : Tensor [B, N, 4]
            Boxes (cx, cy, w, h) in units of the image without padding.
        memory : Tensor [B, S, C]
            The encoded cells of `levels`.
        levels : Levels
        regress : sequence of modules
            One for each layer, from a query to the change of its box's logits.
        mask : bool Tensor [N, N], optional
            True where a query may not look at another.

        Returns
        -------
        list of Tensor
            The queries after each layer, normalised.
        list of Tensor
            The boxes before each layer: the first as given, the others with their gradient.
        """
        valid = torch.cat((levels.valid, levels.valid), -1)[:, None]  # [B, 1, levels, 4]
        found, boxes = [], [reference]
        for layer, branch in zip(self.layers, regress, strict=False):
            on_levels = reference[:, :, None] * valid
            embedded = sine_of_boxes(on_levels[:, :, 0], queries.shape[-1] // 2)
            position = self.ref_point_head(embedded.to(queries.dtype))
            queries = layer(queries, position, memory, on_levels, levels, mask)
            refined = (branch(queries).float() + logit(reference, 1e-3)).sigmoid()
            found.append(self.norm(queries))
            boxes.append(refined)
            reference = refined.detach()
        return found, boxes[:-1]
