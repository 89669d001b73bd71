"""Aggregated and global attention, with the softmax's input and output in memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .window import unfold_window

Grid = tuple[int, int]
_BIAS_HIDDEN = 512


def aggregated_attention(
    q: Tensor,
    kv: Tensor,
    kv_pool: Tensor,
    *,
    grid: Grid,
    window_size: int,
    scale: Tensor,
    length_scale: Tensor,
    outside: Tensor,
    query_embedding: Tensor,
    local_bias: Tensor,
    pool_bias: Tensor,
    tokens: Tensor,
    token_bias: Tensor,
    dropout: float = 0.0,
) -> Tensor:
    """Return ``[B, N, C]`` from the projections ``q [B, N, C]``, ``kv``, ``kv_pool [B, ·, 2C]``.

    ``scale`` and ``query_embedding`` broadcast over ``[h, N, d]``, ``local_bias`` is ``[h, L]``,
    ``pool_bias [h, N, P]``, ``tokens [h, d, L]``, ``token_bias [h, 1, L]``.
    """
    batch, length, channels = q.shape
    heads = local_bias.shape[0]
    head_dim = channels // heads
    query = F.normalize(q.reshape(batch, length, heads, head_dim).permute(0, 2, 1, 3), dim=-1)
    scaled = (query + query_embedding) * scale * length_scale

    key, value = kv.chunk(2, dim=-1)
    key = F.normalize(key.reshape(batch, length, heads, head_dim), dim=-1).reshape(q.shape)
    windows = unfold_window(torch.cat([key, value], dim=-1), 2 * heads, grid, window_size)
    key_windows, value_windows = windows.chunk(2, dim=1)
    local = (scaled.unsqueeze(-2) @ key_windows).squeeze(-2) + local_bias.unsqueeze(1)
    local = local.masked_fill(outside, float("-inf"))

    pooled = kv_pool.reshape(batch, -1, 2 * heads, head_dim).permute(0, 2, 1, 3)
    key_pool, value_pool = pooled.chunk(2, dim=1)
    coarse = scaled @ F.normalize(key_pool, dim=-1).transpose(-2, -1) + pool_bias

    attn = torch.cat([local, coarse], dim=-1).softmax(dim=-1)
    attn = F.dropout(attn, dropout)
    attn_local, attn_pool = attn.split([window_size**2, coarse.shape[-1]], dim=-1)
    weights = query @ tokens + token_bias + attn_local
    out = (weights.unsqueeze(-2) @ value_windows.transpose(-2, -1)).squeeze(-2)
    out = out + attn_pool @ value_pool
    return out.transpose(1, 2).reshape(batch, length, channels)


def gelu_pool(x: Tensor, *, pool_grid: Grid) -> Tensor:
    """Return adaptive average pooling of GELU of a map ``[B, C, H, W]`` as tokens ``[B, P, C]``."""
    x = F.adaptive_avg_pool2d(F.gelu(x), pool_grid)
    return x.reshape(*x.shape[:2], -1).permute(0, 2, 1)


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = dim // heads
        self.temperature = nn.Parameter(torch.zeros(heads, 1, 1))
        self.query_embedding = nn.Parameter(torch.zeros(heads, 1, self.head_dim))
        self.cpb_fc1 = nn.Linear(2, _BIAS_HIDDEN)
        self.cpb_fc2 = nn.Linear(_BIAS_HIDDEN, heads)
        self.proj = nn.Linear(dim, dim)


class AggregatedAttention(_Attention):
    """Attention to a window and to pooled tokens in one softmax."""

    def __init__(self, dim: int, heads: int, window_size: int) -> None:
        super().__init__(dim, heads)
        self.window_size = window_size
        cells = window_size**2
        self.relative_pos_bias_local = nn.Parameter(torch.zeros(heads, cells))
        self.learnable_tokens = nn.Parameter(torch.zeros(heads, self.head_dim, cells))
        self.learnable_bias = nn.Parameter(torch.zeros(heads, 1, cells))
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.sr = nn.Conv2d(dim, dim, kernel_size=1)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        x: Tensor,
        grid: Grid,
        pool_grid: Grid,
        pool_bias: Tensor,
        length_scale: Tensor,
        outside: Tensor,
    ) -> Tensor:
        """``x [B, N, C]`` to ``[B, N, C]``."""
        batch, _, channels = x.shape
        q, kv = self.q(x), self.kv(x)
        image = x.permute(0, 2, 1).reshape(batch, channels, *grid).contiguous()
        pooled = gelu_pool(self.sr(image), pool_grid=pool_grid)
        kv_pool = self.kv(self.norm(pooled))
        out = aggregated_attention(
            q,
            kv,
            kv_pool,
            grid=grid,
            window_size=self.window_size,
            scale=F.softplus(self.temperature),
            length_scale=length_scale,
            outside=outside,
            query_embedding=self.query_embedding,
            local_bias=self.relative_pos_bias_local,
            pool_bias=pool_bias,
            tokens=self.learnable_tokens,
            token_bias=self.learnable_bias,
        )
        return self.proj(out)


class GlobalAttention(_Attention):
    """Attention of every token to every token."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, heads)
        self.qkv = nn.Linear(dim, 3 * dim)

    def forward(
        self,
        x: Tensor,
        grid: Grid,
        pool_grid: Grid,
        pool_bias: Tensor,
        length_scale: Tensor,
        outside: Tensor | None,
    ) -> Tensor:
        """``x [B, N, C]`` to ``[B, N, C]``."""
        batch, length, channels = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3 * self.heads, self.head_dim)
        q, k, v = qkv.permute(0, 2, 1, 3).chunk(3, dim=1)
        scaled = F.normalize(q, dim=-1) + self.query_embedding
        scaled = scaled * F.softplus(self.temperature) * length_scale
        attn = scaled @ F.normalize(k, dim=-1).transpose(-2, -1) + pool_bias
        out = attn.softmax(dim=-1) @ v
        return self.proj(out.transpose(1, 2).reshape(batch, length, channels))
