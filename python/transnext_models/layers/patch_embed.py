"""Overlapping patch embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transnext_ops import branches

from .inference import PackedWeights, branch_features, pack_patch_embed

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
        self.backend: str | None = None
        self.packed = PackedWeights(("proj", "norm"), pack_patch_embed)

    def train(self, mode: bool = True) -> PatchEmbed:
        # Whatever happened to the weights in the other mode, nothing derived from them outlives it.
        self.packed.clear()
        return super().train(mode)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Embed ``x [B, in_chans, H, W]``.

        Returns
        -------
        tokens : Tensor
            ``[B, H' * W', embed_dim]``.
        grid : tuple of int
            ``(H', W')``.
        """
        features = None if self.training else branch_features(x)
        if features is not None and not branches.branches_unsupported(x, backend=self.backend):
            # Which of the two runs along the memory: an image's columns or a map's channels.
            channels_last = x.stride(1) <= x.stride(3)
            weights = self.packed.get(self, (features, channels_last))
            if weights is not None:
                kernel, stride = self.proj.kernel_size[0], self.proj.stride[0]
                grid = ((x.shape[2] - 1) // stride + 1, (x.shape[3] - 1) // stride + 1)
                tokens = branches.patch_embed(
                    x, weights, kernel_size=kernel, stride=stride, features=features
                )
                return tokens, grid
        # Channels-last in, channels-last out: the flattened map then is the token-major layout
        # itself. Maps of the stages before arrive so already; only the image is ever copied.
        x = self.proj(x.contiguous(memory_format=torch.channels_last))
        grid = (x.shape[2], x.shape[3])
        return self.norm(x.flatten(2).transpose(1, 2)), grid
