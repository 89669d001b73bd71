"""Convolutional GLU through ``[B, C, H, W]`` copies."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def conv_glu(x: Tensor, weight: Tensor, bias: Tensor, *, grid: tuple[int, int]) -> Tensor:
    """Return GELU(depthwise 3×3 of the first half of ``x``) × the second half."""
    values, gate = x.chunk(2, dim=-1)
    batch, _, hidden = values.shape
    image = values.transpose(1, 2).reshape(batch, hidden, *grid).contiguous()
    image = F.conv2d(image, weight, bias, padding=1, groups=hidden)
    return F.gelu(image.flatten(2).transpose(1, 2)) * gate


class _DepthwiseConv(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)


class ConvolutionalGLU(nn.Module):
    """``fc2(GELU(dwconv(a)) * g)`` with ``a, g`` the halves of ``fc1(x)``."""

    def __init__(self, dim: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(2 * int(dim * mlp_ratio) / 3)
        self.fc1 = nn.Linear(dim, 2 * hidden)
        self.dwconv = _DepthwiseConv(hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """``x [B, H·W, dim]`` to ``[B, H·W, dim]``."""
        conv = self.dwconv.dwconv
        assert conv.bias is not None
        return self.fc2(conv_glu(self.fc1(x), conv.weight, conv.bias, grid=grid))
