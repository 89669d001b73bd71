"""The local window by unfold: every token's neighbourhood copied out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def unfold_window(x: Tensor, heads: int, grid: tuple[int, int], window_size: int) -> Tensor:
    """Return the window of every token: ``[B, heads, N, d, L]`` from tokens ``[B, N, heads·d]``."""
    batch, length, channels = x.shape
    image = x.permute(0, 2, 1).reshape(batch, channels, *grid)
    windows = F.unfold(image, kernel_size=window_size, padding=window_size // 2, stride=1)
    windows = windows.reshape(batch, heads, channels // heads, window_size**2, length)
    return windows.permute(0, 1, 4, 2, 3)


def padding_mask(
    grid: tuple[int, int], window_size: int, device: torch.device | None = None
) -> Tensor:
    """Return which window cells lie outside the image: ``[N, L]`` bool."""
    image = torch.ones(1, 1, *grid, device=device)
    return F.unfold(image, window_size, padding=window_size // 2)[0].t() == 0


def length_scale(outside: Tensor, pool_length: int) -> Tensor:
    """Return log(window cells inside the image + P) of every token: ``[N, 1]``."""
    return torch.log((~outside).sum(1, keepdim=True) + float(pool_length))


def window_qk(
    q: Tensor, k: Tensor, bias: Tensor, *, grid: tuple[int, int], window_size: int
) -> Tensor:
    """Return the product of every query with its window's keys: ``[B, h, N, L]``.

    ``q`` and ``k`` are ``[B, h, N, d]``, ``bias [h, L]``; cells outside the image are -inf.
    """
    tokens = k.transpose(1, 2).flatten(2)
    windows = unfold_window(tokens, k.shape[1], grid, window_size)
    logits = (q.unsqueeze(-2) @ windows).squeeze(-2) + bias[:, None]
    return logits.masked_fill(padding_mask(grid, window_size, q.device), float("-inf"))


def window_av(attn: Tensor, v: Tensor, *, grid: tuple[int, int], window_size: int) -> Tensor:
    """Return the weighted sum of every window's values: ``[B, h, N, d]``.

    ``attn`` is ``[B, h, N, L]``, ``v [B, h, N, d]``; values outside the image are zero.
    """
    tokens = v.transpose(1, 2).flatten(2)
    windows = unfold_window(tokens, v.shape[1], grid, window_size)
    return (attn.unsqueeze(-2) @ windows.transpose(-2, -1)).squeeze(-2)
