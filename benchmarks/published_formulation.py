"""The operators as the published code formulates them in plain PyTorch: the baseline to beat.

Unfold the window, concatenate both sets of logits, one softmax, split, and tensors permuted to
head-major between all of it. Written from the paper and the specification of the released model;
kept apart from the package's own ``torch`` backend, which does without unfold.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def unfold_window(x: Tensor, grid: tuple[int, int], window_size: int) -> Tensor:
    """Return the window of every token, [B, h, N, d, L] from [B, h, N, d]."""
    batch, heads, length, head_dim = x.shape
    image = x.transpose(2, 3).reshape(batch, heads * head_dim, *grid)
    windows = F.unfold(image, kernel_size=window_size, padding=window_size // 2, stride=1)
    windows = windows.reshape(batch, heads, head_dim, window_size**2, length)
    return windows.permute(0, 1, 4, 2, 3)


def padding_mask(grid: tuple[int, int], window_size: int) -> Tensor:
    """Return which window cells lie outside the image, [N, L] bool."""
    inside = F.unfold(torch.ones(1, 1, *grid), window_size, padding=window_size // 2)
    return inside[0].t() == 0


def aggregated_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    *,
    grid: tuple[int, int],
    pool_grid: tuple[int, int],
    window_size: int,
    scale: Tensor,
    query_embedding: Tensor,
    local_bias: Tensor,
    pool_bias: Tensor,
    tokens: Tensor,
    token_bias: Tensor,
) -> Tensor:
    """Return aggregated attention of token-major inputs, as ``transnext_ops`` defines it."""
    outside = padding_mask(grid, window_size)
    lengths = torch.log((~outside).sum(1) + float(pool_grid[0] * pool_grid[1]))
    q, k, v = (x.permute(0, 2, 1, 3).contiguous() for x in (q, k, v))
    qn, kn = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    scaled = (qn + query_embedding[:, None]) * scale[:, None, None] * lengths[:, None]
    local = (scaled.unsqueeze(-2) @ unfold_window(kn, grid, window_size)).squeeze(-2)
    local = (local + local_bias[:, None]).masked_fill(outside, float("-inf"))
    kpn = F.normalize(k_pool.permute(0, 2, 1, 3), dim=-1)
    pooled = scaled @ kpn.transpose(-2, -1) + pool_bias
    attn = torch.cat([local, pooled], dim=-1).softmax(dim=-1)
    attn_local, attn_pool = attn.split([window_size**2, pooled.shape[-1]], dim=-1)
    weights = qn @ tokens + token_bias[:, None] + attn_local
    out = (weights.unsqueeze(-2) @ unfold_window(v, grid, window_size).transpose(-2, -1)).squeeze(
        -2
    )
    out = out + attn_pool @ v_pool.permute(0, 2, 1, 3)
    return out.transpose(1, 2).contiguous()


def conv_glu(x: Tensor, weight: Tensor, bias: Tensor, *, grid: tuple[int, int]) -> Tensor:
    """Return GELU(dwconv(first half)) × second half, through a [B, C, H, W] copy."""
    values, gate = x.chunk(2, dim=-1)
    batch, _, hidden = values.shape
    image = values.transpose(1, 2).reshape(batch, hidden, *grid).contiguous()
    image = F.conv2d(image, weight, bias, padding=1, groups=hidden)
    return F.gelu(image.flatten(2).transpose(1, 2)) * gate


def gelu_pool(x: Tensor, *, grid: tuple[int, int], pool_grid: tuple[int, int]) -> Tensor:
    """Return adaptive average pooling of GELU(x), through a [B, C, H, W] copy."""
    batch, _, channels = x.shape
    image = x.permute(0, 2, 1).reshape(batch, channels, *grid)
    image = F.adaptive_avg_pool2d(F.gelu(image), pool_grid)
    return image.reshape(batch, channels, -1).permute(0, 2, 1)
