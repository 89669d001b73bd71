"""Attention with dropout on its weights, put together from the window operators.

The fused operators have no dropout: no published recipe uses it. This form materialises the
attention weights, and serves training with ``attn_drop_rate > 0`` only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import transnext_ops as ops

from .length_scale import window_cells

__all__ = ["attention_with_dropout"]


def attention_with_dropout(
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    k_pool: Tensor,
    v_pool: Tensor,
    *,
    grid: tuple[int, int],
    pool_grid: tuple[int, int],
    window_size: int,
    scale: Tensor,
    dropout: float,
    pool_bias: ops.PositionBias,
    query_embedding: Tensor | None = None,
    local_bias: Tensor | None = None,
    tokens: Tensor | None = None,
    token_bias: Tensor | None = None,
    training_keys: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """:func:`transnext_ops.aggregated_attention` with ``dropout`` on the softmax's output.

    Arguments and result ``[B, N, h, d]`` are those of that function; global attention is the case
    ``k = v = None``, ``window_size = 0`` whose pooled keys are all keys. ``training_keys`` are the
    pooled keys that the length scale counts, None for those of the call.
    """
    q, k_pool, v_pool = (x.transpose(1, 2) for x in (q, k_pool, v_pool))  # [B, h, N or P, d]
    query = F.normalize(q, dim=-1, eps=1e-12)
    scaled = query if query_embedding is None else query + query_embedding[:, None]
    pooled_keys = pool_grid[0] * pool_grid[1] if training_keys is None else training_keys
    keys = (window_cells(grid, window_size, scale.device) + pooled_keys).to(scale.dtype)
    scaled = (scaled * scale[:, None, None] * keys.log()[:, None]).to(q.dtype)

    logits = scaled @ F.normalize(k_pool, dim=-1, eps=1e-12).transpose(-2, -1)
    logits = logits + pool_bias.dense()
    local_cells = window_size**2
    if k is not None:
        key = F.normalize(k.transpose(1, 2), dim=-1, eps=1e-12).to(q.dtype)
        local = ops.window_qk(
            scaled, key, local_bias, grid=grid, window_size=window_size, backend=backend
        )
        logits = torch.cat([local, logits], dim=-1)
    weights = F.dropout(logits.softmax(dim=-1), dropout)
    local, pooled = weights.split([local_cells, weights.shape[-1] - local_cells], dim=-1)
    out = pooled.to(v_pool.dtype) @ v_pool
    if v is not None:
        if tokens is not None:
            local = local + query @ tokens
        if token_bias is not None:
            local = local + token_bias[:, None]
        value = v.transpose(1, 2)
        out = out + ops.window_av(
            local.to(value.dtype), value, grid=grid, window_size=window_size, backend=backend
        )
    return out.transpose(1, 2)
