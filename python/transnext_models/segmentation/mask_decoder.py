"""Mask2Former's transformer decoder with masked attention, and its predictions.

Source: Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR
2022, arXiv 2112.01527, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..dense.transformer_layers import Attention, FeedForward
from .pixel_decoder import PixelDecoder, position_tokens

__all__ = ["Mask2FormerHead", "QueryPrediction", "attention_mask"]


class QueryPrediction(NamedTuple):
    """What each query answers: a class and a mask.

    Attributes
    ----------
    classes : Tensor
        Logits ``[B, queries, classes + 1]``; the last is "nothing".
    masks : Tensor
        Logits ``[B, queries, H, W]`` at stride 4.
    """

    classes: Tensor
    masks: Tensor


class MaskDecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, FFN; each with its residual, a LayerNorm after."""

    def __init__(self, channels: int, hidden_dim: int, num_heads: int) -> None:
        super().__init__()
        self.cross_attn = Attention(channels, num_heads)
        self.self_attn = Attention(channels, num_heads)
        self.ffn = FeedForward(channels, hidden_dim)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))

    def forward(
        self,
        queries: Tensor,
        query_position: Tensor,
        memory: Tensor,
        position: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """Refine ``queries [B, N, C]`` by ``memory [B, M, C]``; see :class:`Attention`."""
        x = self.cross_attn(
            queries,
            memory,
            memory,
            query_position=query_position,
            key_position=position,
            mask=mask,
        )
        x = self.norms[0](x)
        x = self.self_attn(x, x, x, query_position=query_position, key_position=query_position)
        return self.norms[2](self.ffn(self.norms[1](x)))


class MaskDecoder(nn.Module):
    """The decoder's layers and the norm before every prediction."""

    def __init__(self, depth: int, channels: int, hidden_dim: int, num_heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            MaskDecoderLayer(channels, hidden_dim, num_heads) for _ in range(depth)
        )
        self.post_norm = nn.LayerNorm(channels)


class Mask2FormerHead(nn.Module):
    """Queries that each find one segment.

    Parameters
    ----------
    in_channels : sequence of int
        Channels of the backbone's four maps, that of the smallest stride first.
    num_classes, num_queries, channels : int
        Classes (without "nothing"), queries, and channels of queries and memories.
    depth, hidden_dim, num_heads : int
        Of the transformer decoder: layers, channels inside the FFN, heads.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int = 150,
        num_queries: int = 100,
        channels: int = 256,
        *,
        depth: int = 9,
        hidden_dim: int = 2048,
        num_heads: int = 8,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.pixel_decoder = PixelDecoder(in_channels, channels)
        self.transformer_decoder = MaskDecoder(depth, channels, hidden_dim, num_heads)
        for parameter in self.transformer_decoder.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)
        self.query_embed = nn.Embedding(num_queries, channels)
        self.query_feat = nn.Embedding(num_queries, channels)
        self.level_embed = nn.Embedding(len(in_channels) - 1, channels)
        self.cls_embed = nn.Linear(channels, num_classes + 1)
        self.mask_embed = nn.Sequential(
            nn.Linear(channels, channels),
            nn.ReLU(inplace=True),
            nn.Linear(channels, channels),
            nn.ReLU(inplace=True),
            nn.Linear(channels, channels),
        )

    def predict(self, queries: Tensor, mask_features: Tensor) -> QueryPrediction:
        """Read class and mask of ``queries [B, N, C]`` off ``mask_features [B, C, H, W]``."""
        x = self.transformer_decoder.post_norm(queries)
        masks = torch.einsum("bqc,bchw->bqhw", self.mask_embed(x), mask_features)
        return QueryPrediction(self.cls_embed(x), masks)

    def forward(self, maps: Sequence[Tensor]) -> list[QueryPrediction]:
        """Return the queries' predictions, before the first layer and after each.

        ``maps`` are the backbone's, ``[B, C_i, H_i, W_i]``. Layer l reads level l mod 3, largest
        stride first, through the mask of the prediction before it.
        """
        mask_features, levels = self.pixel_decoder(maps)
        shapes = [(x.shape[2], x.shape[3]) for x in levels]
        memories = [
            x.flatten(2).transpose(1, 2) + embedding
            for x, embedding in zip(levels, self.level_embed.weight, strict=True)
        ]
        positions = [
            position_tokens(shape, memory) for shape, memory in zip(shapes, memories, strict=True)
        ]
        batch = mask_features.shape[0]
        queries = self.query_feat.weight.expand(batch, -1, -1)
        query_position = self.query_embed.weight.expand(batch, -1, -1)
        predictions = [self.predict(queries, mask_features)]
        for i, layer in enumerate(self.transformer_decoder.layers):
            level = i % len(levels)
            mask = attention_mask(predictions[-1].masks, shapes[level])
            mask = mask.repeat_interleave(self.num_heads, 0)
            queries = layer(queries, query_position, memories[level], positions[level], mask)
            predictions.append(self.predict(queries, mask_features))
        return predictions


@torch.no_grad()
def attention_mask(masks: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the cells of a level that queries may not look at.

    Those outside the predicted masks; a query whose mask holds no cell looks everywhere.

    Parameters
    ----------
    masks : Tensor
        Logits ``[B, N, H, W]``.
    shape : (int, int)
        Rows and columns of the level.

    Returns
    -------
    Tensor
        ``[B, N, rows · columns]`` bool.
    """
    resized = F.interpolate(masks, shape, mode="bilinear", align_corners=False).flatten(2)
    outside = resized.sigmoid() < 0.5
    return outside & ~outside.all(-1, keepdim=True)
