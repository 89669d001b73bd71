"""One residual block of TransNeXt."""

from __future__ import annotations

from torch import Tensor, nn

from transnext_ops import fused_blocks

from .attention import AggregatedAttention, GlobalAttention, PixelFocusedAttention
from .calls import runs_on_cpu
from .conv_glu import ConvolutionalGLU
from .derived import DerivesFromWeights
from .drop import DropPath
from .fused import fused_block, is_plain_block
from .grids import StageGrids

__all__ = ["Block"]

NORM_EPS = 1e-6


class Block(DerivesFromWeights):
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
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, grids: StageGrids) -> Tensor:
        """``x [B, N, C]``, tokens of ``grids.grid``, to ``[B, N, C]``."""
        fused = self.fused(x, grids)
        if fused is not None:
            return fused
        if self._may_skip_samples(x):
            x = self.drop_path.residual(x, lambda kept: self.attn(self.norm1(kept), grids))
            return self.drop_path.residual(x, lambda kept: self.mlp(self.norm2(kept), grids.grid))
        x = x + self.drop_path(self.attn(self.norm1(x), grids))
        return x + self.drop_path(self.mlp(self.norm2(x), grids.grid))

    def fused(self, x: Tensor, grids: StageGrids) -> Tensor | None:
        """Return what :meth:`forward` does, in two calls; None where layers have to be called."""
        weights = fused_block(self, x, grids)
        if weights is None:
            return None
        x = fused_blocks.attention_residual(
            x,
            weights.attention,
            grid=grids.grid,
            pool_grid=grids.pool_grid,
            window_size=self.attn.window_size,
            pool_bias=self.attn.position_bias(grids),
            features=weights.features,
        )
        return fused_blocks.conv_glu_residual(
            x, weights.glu, grid=grids.grid, features=weights.features
        )

    def _may_skip_samples(self, x: Tensor) -> bool:
        """Whether dropped samples of stochastic depth may be skipped without anybody noticing.

        On devices other than a CPU their number is unknown without a synchronisation.
        """
        return self.training and runs_on_cpu(x) and is_plain_block(self) and self.drop_path.rate > 0
