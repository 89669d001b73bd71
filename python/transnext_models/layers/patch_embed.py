"""Overlapping patch embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transnext_ops import fused_blocks
from transnext_ops.tracing import transformed

from .convolution import convolution_layer
from .derived import DerivesFromWeights
from .fused import fused_patch_embed
from .grids import map_grid, map_to_tokens

__all__ = ["PatchEmbed"]


class PatchEmbed(DerivesFromWeights):
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
        self.stride = stride
        self.backend: str | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Embed ``x [B, in_chans, H, W]``.

        Returns
        -------
        tokens : Tensor
            ``[B, H' * W', embed_dim]``.
        grid : tuple of int
            ``(H', W')``.
        """
        fused = self.fused(x)
        if fused is not None:
            return fused
        # Channels-last in, channels-last out: the map then is the tokens without a copy. Maps of
        # earlier stages arrive in that layout; only the image is ever copied. (vmap cannot do it.)
        if not transformed():
            x = x.contiguous(memory_format=torch.channels_last)
        x = convolution_layer(self.proj, x)
        return self.norm(map_to_tokens(x)), map_grid(x)

    def fused(self, x: Tensor) -> tuple[Tensor, tuple[int, int]] | None:
        """Return what :meth:`forward` does, in one call; None where layers have to be called."""
        fused = fused_patch_embed(self, x)
        if fused is None:
            return None
        weights, features = fused
        kernel, stride = self.proj.kernel_size[0], self.proj.stride[0]
        grid = _strided(x.shape[2], x.shape[3], stride)
        x = fused_blocks.patch_embed(
            x, weights, kernel_size=kernel, stride=stride, features=features
        )
        return x, grid

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Return the grid on which the tokens of a map ``[B, C, height, width]`` lie."""
        return _strided(height, width, self.stride)


def _strided(height: int, width: int, stride: int) -> tuple[int, int]:
    return (height - 1) // stride + 1, (width - 1) // stride + 1
