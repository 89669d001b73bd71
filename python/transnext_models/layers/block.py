"""One residual block of TransNeXt."""

from __future__ import annotations

from torch import Tensor, nn

from .attention import AggregatedAttention, GlobalAttention, PixelFocusedAttention
from .conv_glu import ConvolutionalGLU
from .drop import DropPath
from .position_bias import StageGrids

__all__ = ["Block"]

_NORM_EPS = 1e-6


class Block(nn.Module):
    """Attention and convolutional GLU, each normalised first and added to its input.

    Parameters
    ----------
    dim : int
        Width.
    attn : nn.Module
        One of the attention modules.
    mlp : ConvolutionalGLU
        The channel mixer.
    drop_path : float
        Stochastic depth rate of both branches.
    """

    def __init__(
        self,
        dim: int,
        attn: PixelFocusedAttention | AggregatedAttention | GlobalAttention,
        mlp: ConvolutionalGLU,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, grids: StageGrids) -> Tensor:
        """``x [B, N, C]``, tokens of ``grids.grid``, to ``[B, N, C]``."""
        x = x + self.drop_path(self.attn(self.norm1(x), grids))
        return x + self.drop_path(self.mlp(self.norm2(x), grids.grid))
