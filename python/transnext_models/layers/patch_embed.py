"""Overlapping patch embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["PatchEmbed"]


class PatchEmbed(nn.Module):
    """Strided convolution and LayerNorm: an image or feature map to tokens.

    Parameters
    ----------
    in_chans, embed_dim : int
        Channels in and out.
    kernel_size, stride : int
        Of the convolution, which is padded by ``kernel_size // 2``: a side of n becomes
        ceil(n / stride).
    """

    def __init__(self, in_chans: int, embed_dim: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(
            in_chans, embed_dim, kernel_size, stride=stride, padding=kernel_size // 2
        )
        self.norm = nn.LayerNorm(embed_dim)  # PyTorch's default eps, 1e-5, unlike the block norms

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Embed ``x [B, in_chans, H, W]``.

        Returns
        -------
        tokens : Tensor
            ``[B, H' * W', embed_dim]``.
        grid : tuple of int
            ``(H', W')``.
        """
        # Channels-last in, channels-last out: the flattened map then is the token-major layout
        # itself. Maps of the stages before arrive so already; only the image is ever copied.
        x = self.proj(x.contiguous(memory_format=torch.channels_last))
        grid = (x.shape[2], x.shape[3])
        return self.norm(x.flatten(2).transpose(1, 2)), grid
