"""The whole model: classifier, and backbone of dense tasks, interpolated or extrapolated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .attention import AggregatedAttention, GlobalAttention
from .conv_glu import ConvolutionalGLU
from .position_bias import Grid, coordinates, gather_bias, resize_bias
from .window import length_scale, padding_mask


class DropPath(nn.Module):
    """Stochastic depth by samples."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """``x [B, ...]`` to the same shape."""
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        return x * x.new_empty(shape).bernoulli_(keep).div_(keep)


class PatchEmbed(nn.Module):
    """Strided convolution to tokens, and LayerNorm."""

    def __init__(self, in_chans: int, dim: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, kernel_size, stride, kernel_size // 2)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Map ``[B, C, H, W]`` to tokens ``[B, N, dim]`` and their grid."""
        x = self.proj(x)
        grid = (x.shape[2], x.shape[3])
        return self.norm(x.flatten(2).transpose(1, 2)), grid


class Block(nn.Module):
    """Attention and convolutional GLU, each normalised first and added to its input."""

    def __init__(self, dim: int, attn: nn.Module, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = ConvolutionalGLU(dim, mlp_ratio)
        self.drop_path = DropPath(drop_path)


class PublishedTransNeXt(nn.Module):
    """TransNeXt in the published formulation.

    Parameters
    ----------
    embed_dims, num_heads, depths, mlp_ratios, sr_ratios : sequence of four
        As in the variants of ``transnext_models``.
    window_size, drop_path_rate, num_classes
        Likewise.
    img_size, pretrain_size : int
        Sides of the images of training. The coordinates and index of every stage are made once,
        here, for ``img_size``.
    dense : {None, "interpolate", "extrapolate"}
        None classifies images of ``img_size``. Otherwise the model is a backbone for any size and
        returns the four normalised maps: the bias of ``img_size`` is resized, or coordinates and
        index are rebuilt in every call.
    """

    def __init__(
        self,
        *,
        embed_dims: Sequence[int],
        num_heads: Sequence[int],
        depths: Sequence[int],
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        window_size: int = 3,
        drop_path_rate: float = 0.0,
        num_classes: int = 1000,
        img_size: int = 224,
        pretrain_size: int = 224,
        dense: str | None = None,
    ) -> None:
        super().__init__()
        self.sr_ratios, self.window_size, self.dense = tuple(sr_ratios), window_size, dense
        self.grids: list[tuple[Grid, Grid, Grid]] = []
        total = sum(depths)
        rates = iter(drop_path_rate * i / max(total - 1, 1) for i in range(total))
        for stage, (dim, heads) in enumerate(zip(embed_dims, num_heads, strict=True)):
            previous = embed_dims[stage - 1] if stage else 3
            embed = PatchEmbed(previous, dim, 3 if stage else 7, 2 if stage else 4)
            blocks = nn.ModuleList()
            for _ in range(depths[stage]):
                attn: nn.Module = GlobalAttention(dim, heads)
                if sr_ratios[stage] > 1:
                    attn = AggregatedAttention(dim, heads, window_size)
                blocks.append(Block(dim, attn, mlp_ratios[stage], next(rates)))
            self.add_module(f"patch_embed{stage + 1}", embed)
            self.add_module(f"block{stage + 1}", blocks)
            self.add_module(f"norm{stage + 1}", nn.LayerNorm(dim, eps=1e-6))

            side, pretrain = img_size // (4 << stage), pretrain_size // (4 << stage)
            grid, pretrain_grid = (side, side), (pretrain, pretrain)
            pool_grid = self._pool_grid(stage, grid)
            self.grids.append((grid, pool_grid, pretrain_grid))
            self._keep(stage, "coordinates", coordinates(grid, pool_grid, pretrain_grid))
            if dense is None:
                self._keep(stage, "scaling", self._scaling(stage, grid, pool_grid))
        self.head = nn.Linear(embed_dims[-1], num_classes) if dense is None else nn.Identity()

    def _keep(self, stage: int, name: str, tensors: Sequence[Tensor]) -> None:
        for part, tensor in enumerate(tensors):
            self.register_buffer(f"{name}{stage + 1}_{part}", tensor, persistent=False)

    def _kept(self, stage: int, name: str) -> tuple[Tensor, Tensor]:
        first, second = (self.get_buffer(f"{name}{stage + 1}_{part}") for part in range(2))
        return first, second

    def _pool_grid(self, stage: int, grid: Grid) -> Grid:
        ratio = self.sr_ratios[stage]
        return max(1, grid[0] // ratio), max(1, grid[1] // ratio)

    def _scaling(self, stage: int, grid: Grid, pool_grid: Grid) -> tuple[Tensor, Tensor]:
        """Return the length scale ``[N, 1]`` and the padding mask ``[N, L]``."""
        window_size = self.window_size if self.sr_ratios[stage] > 1 else 0
        outside = (
            padding_mask(grid, window_size)
            if window_size
            else torch.zeros(grid[0] * grid[1], 0, dtype=torch.bool)
        )
        return length_scale(outside, pool_grid[0] * pool_grid[1]), outside

    def _bias(
        self, stage: int, attn: nn.Module, grid: Grid, pool_grid: Grid, made: tuple[Tensor, Tensor]
    ) -> Tensor:
        bias = gather_bias(attn.cpb_fc1, attn.cpb_fc2, *made)
        if self.dense == "interpolate":
            train_grid, train_pool_grid, _ = self.grids[stage]
            bias = resize_bias(bias, train_grid, train_pool_grid, grid, pool_grid)
        return bias

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits of images ``[B, 3, H, W]``, or the four normalised maps."""
        maps = []
        for stage in range(4):
            x, grid = getattr(self, f"patch_embed{stage + 1}")(x)
            pool_grid = self._pool_grid(stage, grid)
            made = self._kept(stage, "coordinates")
            if self.dense == "extrapolate":
                distinct, index = coordinates(grid, pool_grid, self.grids[stage][2])
                made = distinct.to(x.dtype), index
            if self.dense is None:
                scaling = self._kept(stage, "scaling")
            else:
                scale, outside = self._scaling(stage, grid, pool_grid)
                scaling = scale.to(x.dtype), outside
            for block in getattr(self, f"block{stage + 1}"):
                bias = self._bias(stage, block.attn, grid, pool_grid, made)
                attended = block.attn(block.norm1(x), grid, pool_grid, bias, *scaling)
                x = x + block.drop_path(attended)
                x = x + block.drop_path(block.mlp(block.norm2(x), grid))
            x = getattr(self, f"norm{stage + 1}")(x)
            if self.dense is None and stage == 3:
                return self.head(x.mean(dim=1))
            x = x.reshape(x.shape[0], *grid, -1).permute(0, 3, 1, 2).contiguous()
            maps.append(x)
        return maps
