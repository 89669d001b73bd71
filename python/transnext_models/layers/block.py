"""One residual block of TransNeXt."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transnext_ops import branches

from .attention import AggregatedAttention, GlobalAttention, PixelFocusedAttention
from .conv_glu import ConvolutionalGLU
from .drop import DropPath
from .grids import StageGrids
from .inference import BranchWeights, as_built, branch_features

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
        self.branch_weights = BranchWeights()

    def train(self, mode: bool = True) -> Block:
        # Whatever happened to the weights in the other mode, nothing derived from them outlives it.
        self.branch_weights.clear()
        return super().train(mode)

    def forward(self, x: Tensor, grids: StageGrids) -> Tensor:
        """``x [B, N, C]``, tokens of ``grids.grid``, to ``[B, N, C]``."""
        features = None if self.training else branch_features(x)
        if features is not None and self._branches_run(x):
            attended = self._attention_branch(x, grids, features)
            mixed = None if attended is None else self._glu_branch(attended, grids, features)
            if mixed is not None:
                return mixed
        x = x + self.drop_path(self.attn(self.norm1(x), grids))
        return x + self.drop_path(self.mlp(self.norm2(x), grids.grid))

    def _branches_run(self, x: Tensor) -> bool:
        attn, mlp = self.attn, self.mlp
        projections = (
            (attn.q, attn.kv, attn.sr, attn.norm)
            if isinstance(attn, PixelFocusedAttention)
            else (attn.qkv,)
        )
        layers = (attn, attn.proj, *projections, mlp, mlp.fc1, mlp.dwconv.dwconv, mlp.fc2)
        return as_built(self.norm1, self.norm2, *layers) and not branches.branches_unsupported(
            x,
            head_dim=attn.head_dim,
            window_size=getattr(attn, "window_size", None),
            backend=attn.backend,
        )

    def _attention_branch(
        self, x: Tensor, grids: StageGrids, features: torch.dtype
    ) -> Tensor | None:
        weights = self.branch_weights.attention(self.norm1, self.attn, features)
        if weights is None:
            return None
        return branches.attention_branch(
            x, weights, heads=self.attn.num_heads, features=features, **self.attn.arguments(grids)
        )

    def _glu_branch(self, x: Tensor, grids: StageGrids, features: torch.dtype) -> Tensor | None:
        weights = self.branch_weights.glu(self.norm2, self.mlp, features)
        if weights is None:
            return None
        return branches.convolutional_glu(x, weights, grid=grids.grid, features=features)
